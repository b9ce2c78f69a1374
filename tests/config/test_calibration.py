"""Calibration recipes: reading, and all faults of a file in one error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from effsam_export.config import calibration as recipe
from effsam_export.config.parity import load_parity_images
from effsam_export.config.toml import data_dir
from effsam_export.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """
images = ["a.jpg"]
num_samples = 20
seed = 3
[crops]
smallest = 0.5
flip = false
[prompts]
per_sample = 2
"""


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, "utf-8")
    return str(path)


def test_the_default_recipe_has_no_evaluation_image() -> None:
    found = recipe.load()
    assert found.num_samples == 20
    assert not found.warnings
    assert all(p.is_file() for p in found.images)
    evaluation = {i.path for i in load_parity_images()}
    assert not evaluation & set(found.images)


def test_every_image_has_its_origin_in_sources_md() -> None:
    folder = data_dir("calibration") / "images"
    sources = (folder / "SOURCES.md").read_text("utf-8")
    for path in folder.glob("*.jpg"):
        assert f"`{path.name}`" in sources


def test_a_recipe_file_is_read(tmp_path: Path) -> None:
    found = recipe.load(write(tmp_path, GOOD))
    assert found == recipe.CalibrationRecipe(
        name="mine",
        images=(tmp_path / "a.jpg",),
        num_samples=20,
        seed=3,
        smallest=0.5,
        flip=False,
        prompts_per_sample=2,
    )


def test_a_folder_gives_all_its_images_in_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    found = recipe.load(str(tmp_path))
    assert [p.name for p in found.images] == ["a.JPG", "b.png"]
    assert found.num_samples == 20


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no image in") as caught:
        recipe.load(str(tmp_path))
    assert ".jpg" in str(caught.value.hint)


def test_few_samples_give_a_warning() -> None:
    (warning,) = recipe.load(num_samples=3).warnings
    assert warning == (
        f"INT8 accuracy with fewer than {recipe.MIN_SAMPLES} calibration samples is unmeasured: "
        "3 given"
    )
    assert not recipe.load(num_samples=recipe.MIN_SAMPLES).warnings


@pytest.mark.parametrize("count", [0, -1])
def test_a_number_under_one_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match=f"--num-samples is {count}, but has to be at least 1"):
        recipe.load(num_samples=count)


def test_an_unknown_name_suggests_known_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        recipe.load("photograph")
    assert "default" in str(caught.value.hint)


def test_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match=r"`nowhere\.toml` does not exist"):
        recipe.load("nowhere.toml")


def test_all_faults_are_in_one_error(tmp_path: Path) -> None:
    text = GOOD.replace("seed = 3", 'seed = "x"').replace("flip = false", "flop = false")
    with pytest.raises(UsageError) as caught:
        recipe.load(write(tmp_path, text))
    for part in ("`seed` is not of type int", "`crops.flip` is missing", "crops.flop"):
        assert part in caught.value.message


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('["a.jpg"]', "[]", "`images` has to be a list"),
        ("num_samples = 20", "num_samples = 0", "`num_samples` is less than 1"),
        ("seed = 3", "seed = -1", "`seed` is negative"),
        ("smallest = 0.5", "smallest = 1.5", "`crops.smallest` is not greater than 0"),
        ("smallest = 0.5", "smallest = nan", "`crops.smallest` is not greater than 0"),
        ("per_sample = 2", "per_sample = 0", "`prompts.per_sample` is less than 1"),
    ],
)
def test_values_out_of_range_are_refused(tmp_path: Path, old: str, new: str, fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        recipe.load(write(tmp_path, GOOD.replace(old, new)))
