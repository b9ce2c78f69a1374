"""COCO files are read by pycocotools' masks; everything wrong with one is a single error."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pycocotools")
from pycocotools import mask as mask_tools

from effsam_export.errors import ToolchainMissing, UsageError
from effsam_export.evaluate import coco, dataset, segmentations
from effsam_export.imaging import rle
from tests.evaluate.annotated import annotation, document, mask_of, write

if TYPE_CHECKING:
    from pathlib import Path

RECTANGLE = (10, 20, 30, 25)


def masks(found: dataset.Dataset) -> list[Any]:
    """The masks of the first image."""
    return [segmentations.decoded(o.mask) for o in found.images[0].objects]


def test_polygons_and_both_kinds_of_run_lengths_give_the_same_mask(tmp_path: Path) -> None:
    mask = mask_of(*RECTANGLE)
    runs = rle.encode(mask)
    content = document(
        annotation(1, 1, RECTANGLE),
        {**annotation(2, 1), "segmentation": runs},
        {**annotation(3, 1), "segmentation": rle.coco(runs)},
        annotation(4, 1, (10, 20, 30, 10), (10, 30, 30, 15)),
    )
    found = coco.load(write(tmp_path, content), tmp_path)
    for read in masks(found):
        np.testing.assert_array_equal(read, mask)
    for target in found.images[0].objects:
        assert target.area == 30 * 25
        assert target.box == (10, 20, 40, 45)
    assert (found.count, found.crowds, found.empty) == (4, 0, 0)
    assert found.images[0].path == tmp_path / "1.png"


def test_area_and_box_are_those_of_the_annotation(tmp_path: Path) -> None:
    given = {**annotation(1, 1, RECTANGLE), "area": 9216.0, "bbox": [9.5, 19.5, 31, 26]}
    flat = {**annotation(2, 1, RECTANGLE), "area": 1023.9, "bbox": [9.5, 19.5, 0, 26]}
    found = coco.load(write(tmp_path, document(given, flat)), tmp_path)
    first, second = found.images[0].objects
    assert (first.area, first.box) == (9216.0, (9.5, 19.5, 40.5, 45.5))
    assert (first.size_class, second.size_class) == ("large", "small")
    # A box without a pixel cannot be a prompt.
    assert second.box == (10, 20, 40, 45)
    medium = {**annotation(1, 1, RECTANGLE), "area": 1024}
    found = coco.load(write(tmp_path, document(medium)), tmp_path)
    assert found.images[0].objects[0].size_class == "medium"


def test_crowds_and_empty_masks_are_left_out_and_counted(tmp_path: Path) -> None:
    crowd = {**annotation(2, 1), "iscrowd": 1, "segmentation": rle.encode(mask_of(*RECTANGLE))}
    content = document(
        annotation(1, 1, RECTANGLE),
        crowd,
        {**annotation(3, 1, RECTANGLE), "area": 0.5},
        {**annotation(4, 1), "segmentation": rle.encode(mask_of(0, 0, 0, 0))},
        images=2,
    )
    path = write(tmp_path, content)
    found = coco.load(path, tmp_path)
    # The second image has no object, and need not be there.
    (tmp_path / "2.png").unlink()
    assert (len(found.images), found.count, found.crowds, found.empty) == (1, 1, 1, 2)
    with_crowds = coco.load(path, tmp_path, crowds=True)
    assert [o.id for o in with_crowds.images[0].objects] == [1, 2]
    assert with_crowds.crowds == 0


FAULTS: dict[str, dict[str, Any]] = {
    "annotation 2 is of image 9, which is not in `images`": {"image_id": 9},
    "annotation 1 occurs twice": {"id": 1},
    "an annotation has no `id`": {"id": None},
    "annotation 2 has an `area` that is no number of pixels": {"area": "large"},
    "annotation 2 has a `bbox` that is not [x, y, width, height]": {"bbox": [1, 2, 3]},
    "annotation 2 has no `segmentation` of polygons or run lengths": {"segmentation": None},
    "annotation 2 has no polygon": {"segmentation": []},
    "annotation 2 has a polygon that is no list of numbers": {"segmentation": [["1"] * 6]},
    "annotation 2 has a polygon of 5 numbers": {"segmentation": [[1, 2, 3, 4, 5]]},
    "annotation 2 has a polygon far outside its image": {"segmentation": [[0, 0, 1e9, 0, 0, 9]]},
    "annotation 2 has an outline of over 2,000,000 pixels": {
        "segmentation": [[0, 0, 110, 0, 0, 79] * 6000]
    },
    "annotation 2 has compressed `counts` that cannot be read": {
        "segmentation": {"size": [80, 120], "counts": "\x01"}
    },
    "annotation 2 has a mask that is malformed: a run-length encoded mask has 8x12 pixels": {
        "segmentation": {"size": [8, 12], "counts": [96]}
    },
    "annotation 2 has a mask that is malformed: a run-length encoded mask has counts of 9": {
        "segmentation": {"size": [80, 120], "counts": [9]}
    },
}


@pytest.mark.parametrize("message", FAULTS)
def test_faults_of_annotations(message: str, tmp_path: Path) -> None:
    wrong = {**annotation(2, 1, RECTANGLE), **FAULTS[message]}
    content = document(annotation(1, 1, RECTANGLE), wrong)
    with pytest.raises(UsageError) as failed:
        coco.load(write(tmp_path, content), tmp_path)
    assert message in failed.value.message


def test_all_problems_are_in_one_error(tmp_path: Path) -> None:
    content = document(
        annotation(1, 1, RECTANGLE),
        annotation(2, 2, RECTANGLE),
        annotation(3, 3, RECTANGLE),
        {**annotation(4, 1), "segmentation": [[1, 2]]},
        images=4,
    )
    content["images"][3]["file_name"] = "../secret.png"
    path = write(tmp_path, content)
    (tmp_path / "2.png").unlink()
    Image.new("RGB", (80, 120)).save(tmp_path / "3.png")
    with pytest.raises(UsageError) as failed:
        coco.load(path, tmp_path)
    lines = failed.value.message.splitlines()
    assert lines[0].endswith(": 4 problems")
    assert "image 4 has no `file_name` that is a path inside the folder" in lines[1]
    assert "annotation 4 has a polygon of 2 numbers" in lines[2]
    assert "2.png` does not exist" in lines[3]
    assert "3.png` has 80x120 pixels after its EXIF rotation, its entry says 120x80" in lines[4]
    assert failed.value.hint == coco.HINT


def test_many_problems_are_counted(tmp_path: Path) -> None:
    wrong = [{**annotation(n, 1), "segmentation": []} for n in range(1, 101)]
    with pytest.raises(UsageError) as failed:
        coco.load(write(tmp_path, document(*wrong)), tmp_path)
    assert "100 problems" in failed.value.message
    assert failed.value.message.endswith("and 80 more")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "are not valid JSON"),
        ('{"images": [], "annotations": NaN}', "are not valid JSON"),
        ("[]", "have no lists `images` and `annotations`"),
        ('{"images": [], "annotations": {}}', "have no lists `images` and `annotations`"),
        ('{"images": [], "annotations": []}', "no annotation has a mask to evaluate"),
        ('{"images": [3], "annotations": []}', "`images[0]` has no `id`"),
    ],
)
def test_files_that_are_no_annotations(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"annotations\.json") as failed:
        coco.load(path, tmp_path)
    assert message in failed.value.message


@pytest.mark.parametrize(
    "change", [{"width": 0}, {"height": True}, {"file_name": "/etc/x.png"}, {"width": 10**9}]
)
def test_faults_of_images(change: dict[str, Any], tmp_path: Path) -> None:
    content = document(annotation(1, 1, RECTANGLE))
    path = write(tmp_path, content)
    content["images"][0].update(change)
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="image 1 has") as failed:
        coco.load(path, tmp_path)
    # The annotations of such an image are no further problem.
    assert "problems" not in failed.value.message


def test_a_missing_file_and_a_missing_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        coco.load(tmp_path / "no.json", tmp_path)
    monkeypatch.setattr(coco, "find_spec", lambda name: None)
    with pytest.raises(ToolchainMissing, match="pycocotools") as failed:
        coco.load(tmp_path / "no.json", tmp_path)
    assert "[eval]" in str(failed.value.hint)


def test_a_limit_chooses_by_the_seed_and_grows(tmp_path: Path) -> None:
    content = document(*(annotation(n, n, RECTANGLE) for n in range(1, 21)), images=20)
    whole = coco.load(write(tmp_path, content), tmp_path)
    five, ten = whole.limited(5, 1), whole.limited(10, 1)
    assert len(five.images) == 5
    assert {i.id for i in five.images} < {i.id for i in ten.images}
    assert [i.id for i in ten.images] == sorted(i.id for i in ten.images)
    assert whole.limited(5, 2).images != five.images
    assert whole.limited(None, 1) is whole.limited(20, 1) is whole


def test_the_annotations_that_ship(tmp_path: Path) -> None:
    found = coco.load(*dataset.shipped())
    sizes = [o.size_class for image in found.images for o in image.objects]
    assert (len(found.images), found.count, found.crowds, found.empty) == (8, 19, 0, 0)
    assert {"small", "medium", "large"} == set(sizes)
    for image in found.images:
        for target in image.objects:
            # The stated areas and boxes are those of the polygons.
            assert target.area == pytest.approx(float(mask_tools.area(target.mask)), rel=0.05)
            x, y, w, h = mask_tools.toBbox(target.mask)
            assert target.box == pytest.approx((x, y, x + w, y + h), abs=1.5)
    sources = (dataset.shipped()[0].parent / "SOURCES.md").read_text("utf-8")
    assert "CC0 1.0" in sources
    assert f"has {found.count} objects in the eight images" in sources
