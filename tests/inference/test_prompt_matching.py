"""Which image a prompt of a file is for, and the names of outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from effsam_export.errors import ImageError, PromptError
from effsam_export.inference import image_list
from effsam_export.inference.prompt_entries import PromptEntry
from effsam_export.inference.prompt_files import PromptFile
from effsam_export.inference.prompt_matching import assign
from effsam_export.spec.prompts import Prompt
from effsam_export.util.names import file_key, file_name_fault

CATS, DOGS = Path("photos/cats/a.jpg"), Path("photos/dogs/a.jpg")
B = Path("photos/b.jpg")


def file(*names: str | None, path: str = "prompts.csv", coco: bool = False) -> PromptFile:
    entries = tuple(
        PromptEntry(image=name, prompt=Prompt(box=(0, 0, i, i))) for i, name in enumerate(names, 1)
    )
    ids = {name: i for i, name in enumerate(names, 1) if name} if coco else {}
    return PromptFile(path=Path(path), entries=entries, image_ids=ids)


def numbers(found: PromptFile, images: list[Path]) -> dict[Path, list[float]]:
    """The prompts of each image, by the width of their boxes."""
    prompts = assign(found, images).prompts
    boxes = {image: [item.prompt.box for item in items] for image, items in prompts.items()}
    return {image: [b[2] for b in some if b is not None] for image, some in boxes.items()}


@pytest.mark.parametrize(
    "name",
    ["b.jpg", "photos/b.jpg", "./photos/b.jpg", "photos\\b.jpg", str(B.absolute())],
)
def test_a_name_is_the_end_of_a_path(name: str) -> None:
    assert numbers(file(name, name), [B, CATS]) == {B: [1, 2], CATS: []}


def test_folders_tell_equal_names_apart() -> None:
    found = numbers(file("dogs/a.jpg", "cats/a.jpg", None), [CATS, DOGS])
    assert found == {CATS: [2, 3], DOGS: [1, 3]}
    with pytest.raises(PromptError, match=r"`a\.jpg` fits 2 images"):
        assign(file("a.jpg"), [CATS, DOGS])


def test_the_image_beside_the_file_is_meant() -> None:
    beside = file("a.jpg", path="photos/cats/prompts.csv")
    assert numbers(beside, [DOGS, CATS]) == {CATS: [1], DOGS: []}
    above = file("../dogs/a.jpg", path="photos/cats/prompts.csv")
    assert numbers(above, [DOGS, CATS]) == {CATS: [], DOGS: [1]}


def test_what_is_left_out_is_noted() -> None:
    notes = assign(file("a.jpg"), [CATS, B]).notes
    assert notes == ("1 image (photos/b.jpg) without a prompt in `prompts.csv`, left out",)


@pytest.mark.parametrize("name", ["A.jpg", "x/a.jpg", "jpg", ".", "..", "/", "a\0.jpg", "a.jpg/"])
def test_an_image_that_is_not_there(name: str) -> None:
    if name == "a.jpg/":
        assert numbers(file(name), [CATS]) == {CATS: [1]}
        return
    with pytest.raises(PromptError, match="is not among the images"):
        assign(file("a.jpg", name), [CATS])


def test_a_coco_file_may_have_more_images() -> None:
    found = assign(file("a.jpg", "z.jpg", coco=True), [CATS])
    assert found.names == {CATS: "a.jpg"}
    assert found.notes == ("1 image (z.jpg) of `prompts.csv` not among the images, left out",)
    with pytest.raises(PromptError, match="none of its images is among the images"):
        assign(file("y.jpg", "z.jpg", coco=True), [CATS])


# ------------------------------------------------------------------ the images of a run


def test_a_folder_gives_its_images_in_order(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "c.txt", ".hidden.png", "z.tiff"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "sub.png").mkdir()
    found = image_list.expand([tmp_path, tmp_path / "a.png", tmp_path / "more.x"])
    assert [p.name for p in found] == ["a.png", "b.JPG", "z.tiff", "more.x"]
    assert image_list.are_several([tmp_path])
    assert not image_list.are_several([tmp_path / "a.png"])


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="there is no image in folder"):
        image_list.expand([tmp_path])


@pytest.mark.parametrize(
    "names",
    [
        ["a/x.jpg", "b/x.jpg", "c/x.jpg", "x_2.png"],
        ["x.jpg", "X.png", "x.jpeg"],
        ["con.jpg", "a:b.png", "a?b.png", ".. .jpg", " .jpg", "...jpg"],
        ["é.jpg", "e\u0301.jpg"],
        [f"{'n' * 200}.jpg", f"{'n' * 200}.png", f"{'é' * 120}.png"],
        ["a\nb.jpg", "\udcff.jpg", "a\u202eb.jpg"],
    ],
)
def test_names_of_outputs_never_collide_or_escape(names: list[str]) -> None:
    found = image_list.output_names([Path(name) for name in names])
    assert len({file_key(name) for name in found}) == len(names)
    for name in found:
        assert file_name_fault(f"{name}-1000.png") is None, name
        assert file_name_fault(name) is None, name


def test_names_of_outputs_are_the_images() -> None:
    assert image_list.output_names([Path("a/x.jpg"), Path("b/x.y.jpg"), Path("b/x.png")]) == [
        *("x", "x.y", "x_2"),
    ]
