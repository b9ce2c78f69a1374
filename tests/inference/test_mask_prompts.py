"""Files of masks that are prompts: checks when they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from effsam_export import models
from effsam_export.errors import ImageError, PromptError
from effsam_export.imaging.images import frame_of, upscale_masks
from effsam_export.inference import mask_prompts
from effsam_export.inference.mask_prompts import load_mask_input

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("arrays", "error"),
    [
        ({"masks": np.zeros((1, 2, 2))}, "has no `low_res_masks`"),
        ({"low_res_masks": np.zeros((3, 64, 64))}, "shape [3, 64, 64], want Kx256x256"),
        ({"low_res_masks": np.zeros((256, 256))}, "shape [256, 256], want Kx256x256"),
        ({"low_res_masks": np.zeros((0, 256, 256))}, "shape [0, 256, 256]"),
        ({"low_res_masks": np.full((1, 256, 256), np.nan)}, "holds NaN or Inf"),
    ],
    ids=["other arrays", "other size", "no set", "empty", "nan"],
)
def test_a_file_of_other_arrays(
    tmp_path: Path, arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]], error: str
) -> None:
    np.savez(tmp_path / "m.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub: allow_pickle
    with pytest.raises(PromptError) as refused:
        load_mask_input(tmp_path / "m.npz", 256)
    assert error in refused.value.message
    assert refused.value.hint == "give a file written by `effsam run --masks`"


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04broken"])
def test_a_file_that_is_not_an_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.npz").write_bytes(content)
    with pytest.raises(PromptError, match="cannot be read"):
        load_mask_input(tmp_path / "m.npz", 256)


def test_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.asarray([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(PromptError, match="cannot be read"):
        load_mask_input(tmp_path / "m.npy", 256)


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.zeros((1, 256, 256)))
    with pytest.raises(PromptError, match="it is not a zip file"):
        load_mask_input(tmp_path / "m.npy", 256)


# ------------------------------------------------------------------ binary masks

MODEL = models.get("mobile-sam")
SIZE = (300, 400)
GRADIENT = Image.linear_gradient("L").resize((400, 300))


def disc(size: tuple[int, int] = SIZE) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    return np.asarray(np.hypot(x - 0.7 * size[1], y - 0.4 * size[0]) < 0.2 * size[0])


def load(path: Path, size: tuple[int, int] = SIZE) -> mask_prompts.MaskPrompt:
    return mask_prompts.load(path, frame_of(size, MODEL.preprocess), MODEL.masks)


@pytest.mark.parametrize("size", [SIZE, (401, 255), (250, 1000), (1024, 1024), (5, 7)])
def test_a_mask_comes_back_from_its_logits(size: tuple[int, int]) -> None:
    """Read as the model's own logits are, they give the mask again but for its outline."""
    mask, frame = disc(size), frame_of(size, MODEL.preprocess)
    logits = mask_prompts.to_logits(mask, frame, MODEL.masks.low_res_size)
    assert logits.dtype == np.float32
    assert (np.abs(logits).max(), logits.shape) == (10, (256, 256))
    again = upscale_masks(logits[None], frame, MODEL.masks)[0] > 0
    assert (again & mask).sum() / (again | mask).sum() > 0.95
    # Padding is outside.
    height, width = (-(-side * 256 // 1024) for side in frame.prompt)
    assert (logits[height:] == -10).all()
    assert (logits[:, width:] == -10).all()


def test_logits_are_means_over_their_cells() -> None:
    frame = frame_of((1024, 1024), MODEL.preprocess)
    mask = np.zeros((1024, 1024), dtype=np.bool_)
    mask[4:8, 8:10] = True
    logits = mask_prompts.to_logits(mask, frame, 256)
    assert logits[1, 2] == 0
    assert (logits != -10).sum() == 1


def pictures(folder: Path) -> dict[str, Path]:
    """The same mask as programs write it."""
    mask = disc()
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    soft = grey.resize((800, 600)).resize((400, 300), Image.Resampling.BILINEAR)
    red = np.where(mask[:, :, None], [200, 0, 0], [0, 0, 0]).astype(np.uint8)
    made = {
        "white.png": grey,
        "one bit.png": grey.convert("1"),
        "ones.png": Image.fromarray(mask.astype(np.uint8)),
        "red.png": Image.fromarray(red),
        "soft.png": soft,
        "palette.png": grey.convert("P"),
        "lossy.jpg": grey,
    }
    for name, picture in made.items():
        picture.save(folder / name)
    np.save(folder / "bool.npy", mask)
    np.save(folder / "bytes.npy", mask.astype(np.uint8) * 255)
    np.save(folder / "floats.npy", mask.astype(np.float32)[None])
    return {path.name: path for path in folder.iterdir()}


def test_binary_masks_as_programs_write_them(tmp_path: Path) -> None:
    wanted = mask_prompts.to_logits(disc(), frame_of(SIZE, MODEL.preprocess), 256)
    found = pictures(tmp_path)
    assert len(found) == 10
    for name, path in found.items():
        read = load(path)
        if name in ("soft.png", "lossy.jpg"):
            assert np.abs(read.logits - wanted).mean() < 0.2, name
        else:
            assert np.array_equal(read.logits, wanted), name
            rows, columns = np.nonzero(disc())
            assert read.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_logits_in_a_npy_file(tmp_path: Path) -> None:
    logits = np.linspace(-5, 5, 256 * 256, dtype=np.float32).reshape(1, 256, 256)
    np.save(tmp_path / "m.npy", logits)
    assert np.array_equal(load(tmp_path / "m.npy").logits, logits[0])
    assert np.array_equal(load(tmp_path / "m.npy", (256, 256)).logits, logits[0])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros(SIZE, bool), "is empty: it has no pixel of an object"),
        (np.ones((30, 40), bool), "holds an array of shape [30, 40], want 300x400"),
        (np.ones((2, *SIZE), bool), "holds an array of shape [2, 300, 400]"),
        (np.ones(SIZE[0], bool), "holds an array of shape [300]"),
        (np.ones((256, 256), bool), "has 256x256 pixels, the image 400x300"),
        (np.arange(120_000).reshape(SIZE), "has more than two values"),
        (np.full(SIZE, np.nan), "has more than two values"),
        (np.full((256, 256), np.inf, np.float32), "holds NaN or Inf"),
        (np.linspace(-9, -5, 256 * 256).reshape(256, 256), "is empty"),
        (np.asarray([{}], dtype=object), "its dtype is"),
    ],
)
def test_npy_files_that_are_refused(
    tmp_path: Path, values: np.ndarray[tuple[int, ...], np.dtype[np.generic]], said: str
) -> None:
    np.save(tmp_path / "m.npy", values, allow_pickle=True)
    with pytest.raises(PromptError) as refused:
        load(tmp_path / "m.npy")
    assert said in refused.value.message


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (Image.new("L", (400, 300)), "is empty"),
        (Image.new("L", (300, 400), 255), "has 300x400 pixels, the image 400x300"),
        (Image.merge("RGB", [GRADIENT, GRADIENT, GRADIENT.rotate(180)]), "colours, want two"),
    ],
    ids=["black", "turned", "photo"],
)
def test_pictures_that_are_refused(tmp_path: Path, picture: Image.Image, said: str) -> None:
    picture.save(tmp_path / "m.png")
    with pytest.raises(PromptError) as refused:
        load(tmp_path / "m.png")
    assert said in refused.value.message


def test_files_that_are_no_masks(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match="cannot be read"):
        load(tmp_path / "m.png")
    (tmp_path / "m.npy").write_bytes(b"\x93NUMPY\x01\x00")
    for name, said in (("m.npy", "cannot be read"), ("x.npy", "exist"), ("x.png", "exist")):
        with pytest.raises(PromptError, match=said):
            load(tmp_path / name)
