"""COCO documents, as pycocotools reads them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from effsam_export.imaging import rle
from effsam_export.inference.coco import CocoDocument
from tests.inference.masks import SIZE, filled, generated, prompted, result

if TYPE_CHECKING:
    from pathlib import Path

LEFT, RIGHT = (5, 10, 24, 39), (50, 10, 89, 59)


def document() -> CocoDocument:
    """Two images, the second with an empty mask."""
    made = CocoDocument({"cup": 3, "object": 5}, "test")
    first = result([prompted(LEFT, 1), prompted(RIGHT, 2, score=0.5)])
    items = (replace(first.task.prompts[0], category="cup"), first.task.prompts[1])
    made.add(replace(first, task=replace(first.task, prompts=items, image_id=7)))
    second = result([prompted(None, 1)], name="other")
    made.add(replace(second, task=replace(second.task, image_id=9)))
    return made


def test_the_document() -> None:
    found = document().document()
    assert found["images"] == [
        {"id": 7, "file_name": "photo.jpg", "width": SIZE[1], "height": SIZE[0]},
        {"id": 9, "file_name": "other.jpg", "width": SIZE[1], "height": SIZE[0]},
    ]
    assert found["categories"] == [{"id": 3, "name": "cup"}, {"id": 5, "name": "object"}]
    keys = ("id", "image_id", "category_id", "area", "bbox", "prompt")
    assert [[a[k] for k in keys] for a in found["annotations"]] == [
        [1, 7, 3, 600, [5, 10, 20, 30], 1],
        [2, 7, 5, 2000, [50, 10, 40, 50], 2],
        [3, 9, 5, 0, [0, 0, 0, 0], 1],
    ]


def test_the_best_mask_of_a_set_and_all_generated_masks() -> None:
    made = CocoDocument({}, "test")
    made.add(result([prompted(LEFT), prompted(RIGHT, score=0.5)]))
    made.add(result([generated(LEFT), generated(RIGHT)]))
    found = made.document()["annotations"]
    assert [a["bbox"] for a in found] == [[5, 10, 20, 30], [5, 10, 20, 30], [50, 10, 40, 50]]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools")
def test_pycocotools_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    path = tmp_path / "masks.json"
    path.write_text(json.dumps(document().document()))
    read = coco.COCO(str(path))
    read.info()
    assert "description: test" in capsys.readouterr().out
    assert read.getCatIds(catNms=["cup"]) == [3]
    for number, wanted in ((1, LEFT), (2, RIGHT), (3, None)):
        (annotation,) = read.loadAnns(number)
        assert np.array_equal(read.annToMask(annotation).astype(bool), filled(wanted))
    assert [a["id"] for a in read.loadAnns(read.getAnnIds(imgIds=7))] == [1, 2]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools")
@pytest.mark.parametrize("seed", range(30))
def test_compressed_counts_are_those_of_pycocotools(seed: int) -> None:
    mask_tools = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(1, 200)), int(rng.integers(1, 3000)))
    share = rng.choice([0.0, 0.001, 0.5, 0.999, 1.0])
    mask = rng.random(size) < share
    wanted = mask_tools.encode(np.asfortranarray(mask.astype(np.uint8)))
    found = rle.coco(rle.encode(mask))
    assert found == {"size": wanted["size"], "counts": wanted["counts"].decode()}
    box = mask_tools.toBbox(wanted).tolist()
    assert int(mask_tools.area(wanted)) == mask.sum()
    assert np.array_equal(mask_tools.decode(found).astype(bool), mask)
    rows, columns = np.nonzero(mask)
    if rows.size:
        x, y = columns.min(), rows.min()
        assert box == [x, y, columns.max() - x + 1, rows.max() - y + 1]


@pytest.mark.parametrize(
    ("counts", "text"),
    [([6], "6"), ([0, 6], "06"), ([100, 5, 7], "T357"), ([3, 4, 5, 3, 5], "345O0")],
)
def test_compressed_counts(counts: list[int], text: str) -> None:
    """Worked by hand: 100 is 4 and 3 times 32; the fourth count is stored as 3 - 4 = -1."""
    assert rle.compressed(counts) == text
