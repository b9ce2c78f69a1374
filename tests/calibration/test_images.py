"""Calibration images: checks, and deterministic samples."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from effsam_export.calibration import images as calibration_images
from effsam_export.config import calibration as recipe
from effsam_export.config.parity import load_parity_images
from effsam_export.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def smooth(seed: int, size: tuple[int, int] = (80, 100)) -> NDArray[np.uint8]:
    """A picture with soft edges, other for each seed."""
    y, x = np.mgrid[: size[0], : size[1]]
    waves = [np.sin(x / (5 + c) + seed) + np.cos(y / (7 + c)) for c in range(3)]
    return ((np.stack(waves, axis=2) + 2) * 63).astype(np.uint8)


def saved(folder: Path, name: str, picture: NDArray[Any]) -> Path:
    path = folder / name
    Image.fromarray(picture).save(path)
    return path


def of(*paths: Path, num_samples: int = 6) -> recipe.CalibrationRecipe:
    return recipe.CalibrationRecipe(name="test", images=paths, num_samples=num_samples)


def test_the_default_images_load_with_their_hashes() -> None:
    found = calibration_images.load(recipe.load(), [i.path for i in load_parity_images()])
    assert len(found.sha256) == len(found.arrays) == 5
    assert all(calibration_images.correlation(p) > 0.8 for p in found.arrays)


def test_one_error_lists_all_faults(tmp_path: Path) -> None:
    good = saved(tmp_path, "good.png", smooth(0))
    twin = saved(tmp_path, "twin.png", smooth(0))
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    static = saved(tmp_path, "static.png", noise)
    torn = tmp_path / "torn.png"
    torn.write_bytes(good.read_bytes()[:200])
    evaluation = saved(tmp_path, "evaluation.png", smooth(1))
    small = saved(tmp_path, "small.png", smooth(2, (16, 100)))
    with pytest.raises(UsageError) as caught:
        calibration_images.load(of(good, twin, static, torn, evaluation, small), [evaluation])
    message = caught.value.message
    for part in (
        "`twin.png` is the same file as `good.png`",
        "`static.png` is noise: its neighbouring pixels correlate by",
        "torn.png` cannot be read",
        "`evaluation.png` is an evaluation image of this export and must not calibrate it",
        "`small.png` is less than 32 pixels",
    ):
        assert part in message
    assert "good.png` is noise" not in message
    assert "random data ruins INT8" in str(caught.value.hint)


def test_a_missing_image_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.jpg` does not exist"):
        calibration_images.load(of(tmp_path / "gone.jpg"))


def test_images_of_12_bits(tmp_path: Path) -> None:
    grey = smooth(0)[..., 0]
    deep = saved(tmp_path, "deep.png", grey.astype(np.uint16) * 16)
    plain = saved(tmp_path, "plain.png", grey)
    found = calibration_images.load(of(deep, plain))
    np.testing.assert_array_equal(found.arrays[0], found.arrays[1])
    assert found.ranges == ((0, 4095), (0, 255))
    (note,) = found.notes
    assert note.startswith("image `deep.png` has 16-bit values from ")
    full = calibration_images.load(replace(of(deep), value_range="full"))
    assert full.ranges == ((0, 65535),)
    np.testing.assert_array_equal(full.arrays[0][..., 0], grey // 16)


def test_an_image_of_an_unknown_range(tmp_path: Path) -> None:
    path = tmp_path / "deep.tif"
    Image.fromarray(smooth(0)[..., 0].astype(np.float32) * 100).save(path)
    with pytest.raises(UsageError, match=r"\(set `range` in a calibration file\)"):
        calibration_images.load(of(path))
    found = calibration_images.load(replace(of(path), value_range=(0, 25500)))
    np.testing.assert_array_equal(found.arrays[0][..., 0], smooth(0)[..., 0])


def test_a_uniform_image_is_not_noise() -> None:
    assert calibration_images.correlation(np.full((8, 8, 3), 9, np.uint8)) == 1


def test_whole_images_come_first_and_their_crops_follow(tmp_path: Path) -> None:
    paths = [saved(tmp_path, f"{i}.png", smooth(i)) for i in range(2)]
    found = list(calibration_images.samples(calibration_images.load(of(*paths, num_samples=7))))
    assert len(found) == 7
    assert np.array_equal(found[0], smooth(0))
    assert np.array_equal(found[1], smooth(1))
    for i, crop in enumerate(found[2:], start=2):
        assert crop.flags.c_contiguous
        assert min(crop.shape[:2]) >= calibration_images.MIN_SIDE
        assert is_part(crop, smooth(i % 2))


def is_part(crop: NDArray[np.uint8], whole: NDArray[np.uint8]) -> bool:
    """Whether a crop, mirrored or not, lies in a picture."""
    h, w = crop.shape[:2]
    return any(
        np.array_equal(side, whole[y : y + h, x : x + w])
        for side in (crop, crop[:, ::-1])
        for y in range(whole.shape[0] - h + 1)
        for x in range(whole.shape[1] - w + 1)
    )


def test_fewer_samples_than_images_take_the_first(tmp_path: Path) -> None:
    paths = [saved(tmp_path, f"{i}.png", smooth(i)) for i in range(3)]
    found = list(calibration_images.samples(calibration_images.load(of(*paths, num_samples=2))))
    assert [np.array_equal(f, smooth(i)) for i, f in enumerate(found)] == [True, True]


def test_the_seed_determines_the_samples(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.png", smooth(0))
    loaded = calibration_images.load(of(path, num_samples=5))
    first, again = (list(calibration_images.samples(loaded)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    other = replace(loaded, recipe=replace(loaded.recipe, seed=1))
    shapes = [s.shape for s in calibration_images.samples(other)]
    assert shapes != [s.shape for s in first]


def test_crops_are_mirrored_only_with_flip(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.png", smooth(0))
    loaded = calibration_images.load(replace(of(path, num_samples=8), flip=False, smallest=1.0))
    assert all(np.array_equal(s, smooth(0)) for s in calibration_images.samples(loaded))
