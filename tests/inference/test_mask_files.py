"""Masks in NumPy files, in pictures, and in folders of pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from effsam_export.errors import OutputError
from effsam_export.imaging.regions import bounding_box
from effsam_export.inference import mask_files
from effsam_export.inference.mask_prompts import load_mask_input
from effsam_export.inference.overlay_many import colour
from tests.inference.masks import SIZE, filled, generated, prompted, result

if TYPE_CHECKING:
    from pathlib import Path

LEFT, RIGHT, SMALL = (5, 10, 24, 39), (50, 10, 80, 50), (8, 12, 12, 20)


def test_bounding_box_is_inclusive() -> None:
    assert bounding_box(filled(None)) is None
    assert bounding_box(filled((4, 3, 4, 5))) == (4, 3, 4, 5)
    assert bounding_box(filled((4, 3, 89, 59))) == (4, 3, 89, 59)


def test_saved_masks_can_be_mask_input(tmp_path: Path) -> None:
    both = (prompted(LEFT), prompted(RIGHT, score=0.5))
    mask_files.save(result(both), tmp_path / "m.npz", is_folder=False)
    logits = load_mask_input(tmp_path / "m.npz", 8)
    assert logits.shape == (8, 8)
    assert float(logits[0, 0]) == pytest.approx(0.9)
    with np.load(tmp_path / "m.npz") as content:
        assert sorted(content.files) == ["low_res_masks", "masks", "scores"]
        assert content["masks"].dtype == bool
        assert np.array_equal(content["masks"], [filled(LEFT), filled(RIGHT)])
    assert [p.name for p in tmp_path.iterdir()] == ["m.npz"]


def test_masks_of_several_prompts_have_their_numbers(tmp_path: Path) -> None:
    both = (prompted(LEFT, 1), prompted(None, 2), prompted(RIGHT, 3))
    mask_files.save(result(both), tmp_path / "m.npz", is_folder=False)
    with np.load(tmp_path / "m.npz") as content:
        assert content["prompts"].tolist() == [1, 2, 3]
        assert content["masks"].sum(axis=(1, 2)).tolist() == [600, 0, 31 * 41]


def test_generated_masks_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "all.npz"
    mask_files.save(result([generated(LEFT)]), path, is_folder=False)
    with np.load(path) as content:
        assert content["masks"].shape == (1, *SIZE)
        assert content["masks"].sum() == 600
        assert content["boxes"].tolist() == [list(LEFT)]
        assert content["points"].tolist() == [[5, 10]]
    mask_files.save(result([]), path, is_folder=False)
    with np.load(path) as content:
        assert content["masks"].shape == (0, *SIZE)


def test_a_picture_of_one_mask_is_black_and_white(tmp_path: Path) -> None:
    """The best of the set, as any other program reads it."""
    path = tmp_path / "m.png"
    mask_files.save(result([prompted(LEFT), prompted(RIGHT, score=0.5)]), path, is_folder=False)
    with Image.open(path) as picture:
        assert picture.mode == "L"
        assert np.array_equal(np.asarray(picture), np.where(filled(LEFT), 255, 0))


def test_a_picture_of_several_masks_has_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    masks = [prompted(SMALL, 1), prompted(LEFT, 2), prompted(RIGHT, 3)]
    mask_files.save(result(masks), path, is_folder=False)
    with Image.open(path) as picture:
        values, seen = np.asarray(picture), np.asarray(picture.convert("RGB"))
    assert np.array_equal(values == 1, filled(SMALL))
    assert np.array_equal(values == 2, filled(LEFT) & ~filled(SMALL))
    assert np.array_equal(values == 3, filled(RIGHT))
    assert tuple(seen[30, 60]) == colour(2)
    assert not seen[0, 0].any()


def test_more_masks_than_colours_are_16_bits(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    masks = [generated((i % 90, i // 90, i % 90, i // 90)) for i in range(300)]
    mask_files.save(result(masks), path, is_folder=False)
    with Image.open(path) as picture:
        values = np.asarray(picture)
    assert values.dtype == np.uint16
    assert values[0, :3].tolist() == [1, 2, 3]
    assert values.max() == 300


def test_a_folder_has_a_picture_for_each_prompt(tmp_path: Path) -> None:
    masks = [prompted(LEFT, 1), prompted(RIGHT, 2)]
    mask_files.save(result(masks, name="cat"), tmp_path, is_folder=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cat-1.png", "cat-2.png"]
    with Image.open(tmp_path / "cat-2.png") as picture:
        assert np.array_equal(np.asarray(picture) == 255, filled(RIGHT))


@pytest.mark.parametrize("name", ["m.zip", "m.npy", "m.npz.gz"])
def test_another_suffix(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"does not end in `\.npz` or `\.png`"):
        mask_files.check_suffix(tmp_path / name)
