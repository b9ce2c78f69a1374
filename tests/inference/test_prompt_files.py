"""Prompts files: CSV, JSON and COCO, honest and hostile."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from effsam_export.errors import PromptError
from effsam_export.inference import prompt_files
from effsam_export.inference.prompt_entries import PromptEntry
from effsam_export.spec.prompts import Point, Prompt

if TYPE_CHECKING:
    from pathlib import Path


def entry(image: str | None, category: str = "object", **prompt: Any) -> PromptEntry:  # noqa: ANN401
    return PromptEntry(image=image, prompt=Prompt(**prompt), category=category)


def load(folder: Path, content: str | bytes, suffix: str = ".csv") -> prompt_files.PromptFile:
    path = folder / f"prompts{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return prompt_files.load(path)


BOX = (1.0, 2.0, 30.0, 40.5)
BOXES = (
    "image,x0,y0,x1,y1\na.jpg,1,2,30,40.5\nb.jpg,1,2,30,40.5\n",
    "file_name,xmin,ymin,xmax,ymax\r\na.jpg,1,2,30,40.5\r\nb.jpg,1,2,30,40.5\r\n",
    "\ufeffFilename;X1;Y1;X2;Y2\na.jpg;1;2;30;40.5\n\nb.jpg;1;2;30;40.5",
    "y1\tx1\ty0\tx0\timage\n40.5\t30\t2\t1\ta.jpg\n 40.5\t30\t2\t1\t b.jpg\n",
)


@pytest.mark.parametrize("content", BOXES, ids=["plain", "pascal", "semicolons", "tabs"])
def test_boxes_as_other_programs_write_them(tmp_path: Path, content: str) -> None:
    assert load(tmp_path, content).entries == (entry("a.jpg", box=BOX), entry("b.jpg", box=BOX))


def test_lines_of_one_prompt_are_joined(tmp_path: Path) -> None:
    content = (
        "image,prompt,x,y,label,x0,y0,x1,y1,category\n"
        "a.jpg,cup,5,6,,,,,,cup\n"
        'a.jpg,2,7,8,0,,,,,"spoon, silver"\n'
        "a.jpg,cup,9,10,0,1,2,30,40.5,cup\n"
        "b.jpg,cup,5,6,1,,,,,cup\n"
    )
    found = load(tmp_path, content)
    both = (Point(x=5, y=6), Point(x=9, y=10, label=0))
    assert found.entries == (
        entry("a.jpg", "cup", points=both, box=BOX),
        entry("a.jpg", "spoon, silver", points=(Point(x=7, y=8, label=0),)),
        entry("b.jpg", "cup", points=(Point(x=5, y=6),)),
    )
    assert found.categories == {"cup": 1, "spoon, silver": 2}


def test_prompts_without_an_image_are_for_all(tmp_path: Path) -> None:
    assert load(tmp_path, "x,y\n1,2\n").entries == (entry(None, points=(Point(x=1, y=2),)),)


@pytest.mark.parametrize("wrapped", [False, True])
def test_json(tmp_path: Path, wrapped: bool) -> None:
    prompts = [
        {"image": "a.jpg", "points": [[5, 6], [7.5, 8, 0]], "box": [1, 2, 30, 40.5]},
        {"box": [1, 2, 30, 40.5], "category": "cup", "image": None},
    ]
    content = json.dumps({"prompts": prompts} if wrapped else prompts)
    points = (Point(x=5, y=6), Point(x=7.5, y=8, label=0))
    assert load(tmp_path, content, ".json").entries == (
        entry("a.jpg", points=points, box=BOX),
        entry(None, "cup", box=BOX),
    )


COCO: dict[str, Any] = {
    "info": {"description": "made by hand"},
    "images": [{"id": 7, "file_name": "cats/a.jpg"}, {"id": 9, "file_name": "b.jpg", "width": 3}],
    "annotations": [
        {"id": 1, "image_id": 9, "bbox": [1, 2, 29, 38.5], "category_id": 18, "segmentation": []},
        {"id": 2, "image_id": 7, "bbox": [0, 0, 5, 5], "category_id": 99},
        {"id": 3, "image_id": 7, "bbox": [0, 0, 5, 5]},
    ],
    "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}],
}


def test_coco_boxes(tmp_path: Path) -> None:
    found = load(tmp_path, json.dumps(COCO), ".json")
    assert found.is_coco
    assert found.image_ids == {"cats/a.jpg": 7, "b.jpg": 9}
    assert found.entries == (
        entry("b.jpg", "dog", box=BOX),
        entry("cats/a.jpg", "category 99", box=(0.0, 0.0, 5.0, 5.0)),
        entry("cats/a.jpg", box=(0.0, 0.0, 5.0, 5.0)),
    )
    assert found.categories == {"dog": 18, "category 99": 99, "object": 100}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "has neither columns x, y nor x0, y0, x1, y1"),
        ("image\na.jpg\n", "has neither columns"),
        ("x,y\n", "has no prompt"),
        ("x,y,lable\n1,2,0\n", "column `lable` is unknown"),
        ("x,y,x\n1,2,3\n", "column `x` occurs twice"),
        ("image,file,x,y\na,b,1,2\n", "column `image` occurs twice"),
        ("x0,y0,x1\n1,2,3\n", "column `x0` is unknown"),
        ("x,y\n1,2\n3\n", "line 3 has 1 values, the header 2"),
        ("x,y\n1,nan\n", "line 2: x, y `1,nan` are not two numbers"),
        ("x,y\n1,1e300\n", "line 2: point (1.0, 1e+300) has a coordinate beyond 1000000"),
        ("x,y\n1,1_0\n", "are not two numbers"),
        ("x,y,label\n1,2,3\n", "label `3.0` is neither 1"),
        ("x,y,label\n1,2,yes\n", "label `yes` is neither 1"),
        ("x,y,label,x0,y0,x1,y1\n,,0,1,2,3,4\n", "label `0` has no point"),
        ("x,y,image\n,,a.jpg\n", "line 2 has no point and no box"),
        ("x0,y0,x1,y1\n1,2,3,inf\n", "box `1,2,3,inf` is not four numbers"),
        ("x0,y0,x1,y1\n1,2,3,\n", "box `1,2,3,` is not four numbers"),
        ("prompt,x0,y0,x1,y1\n1,1,2,3,4\n1,1,2,3,4\n", "the prompt of line 2 has 2 boxes"),
        ("prompt,x,y,category\n1,1,2,a\n1,1,2,b\n", "line 2 has several categories"),
        ("image,x,y\n,1,2\n", "line 2: `image` is not a text"),
        (f"image,x,y\n{'n' * 1001},1,2\n", "`image` has more than 1000 characters"),
        ('x,y\n"1,2\n', "cannot be read: line 2: unexpected end of data"),
        (b"x,y\n\xff,2\n", "cannot be read"),
        ("x,y\n1,\0\n", "it has a null character"),
        ("prompt,x,y\n" + "1,1,2\n" * 1001, "has more than 1000 points"),
        ("x,y\n" + "1,2\n" * 100_001, "more than 100000 prompts"),
    ],
)
def test_csv_that_is_refused(tmp_path: Path, content: str | bytes, said: str) -> None:
    with pytest.raises(PromptError) as refused:
        load(tmp_path, content)
    assert said in refused.value.message
    assert refused.value.hint


def test_all_lines_that_are_wrong_are_named(tmp_path: Path) -> None:
    with pytest.raises(PromptError) as refused:
        load(tmp_path, "x,y\n1,a\n2,3\n4,b\n")
    assert "line 2: " in refused.value.message
    assert "line 4: " in refused.value.message
    with pytest.raises(PromptError) as refused:
        load(tmp_path, "x,y\n" + "1,a\n" * 90_000)
    assert len(refused.value.message) < 3000


def coco(**changes: object) -> str:
    return json.dumps({**COCO, **changes})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "cannot be read"),
        ("{}", "is neither a list of prompts"),
        ("3", "is neither a list of prompts"),
        ("[]", "has no prompt"),
        ('{"prompts": [], "more": 1}', "key `more` is unknown"),
        ("[3]", "prompt 1: is not an object"),
        ('[{"box": [1,2,3,4], "score": 1}]', "key `score` is unknown"),
        ('[{"image": "a"}]', "prompt 1: has no `points` and no `box`"),
        ('[{"image": 3, "box": [1,2,3,4]}]', "`image` is not a text"),
        ('[{"box": [1,2,3]}]', "`box` is `[1, 2, 3]`"),
        ('[{"box": [1,2,3,true]}]', "`box` is"),
        ('[{"box": [1,2,3,NaN]}]', "NaN is not JSON"),
        ('[{"box": [1,2,3,1e999]}]', "beyond the range"),
        ('[{"box": [1,2,3,1e99]}]', "`box` is"),
        ('[{"points": [[1]]}]', "point `[1]` is not [x, y]"),
        ('[{"points": [[1,2,5]]}]', "label `5` is neither"),
        ('[{"points": [[1,2,true]]}]', "label `True` is neither"),
        ('[{"points": 7}]', "`points` is not a list"),
        ('[{"points": ' + json.dumps([[1, 2]] * 1001) + "}]", "at most 1000 points"),
        ('[{"image_id": 3, "bbox": [1,2,3,4]}]', "has `image_id`: give the COCO file"),
        ('[{"box": [1,2,3,4], "category": ""}]', "`category` is not a text"),
        ("[" * 100 + "]" * 100, "nested deeper"),
        (coco(annotations=3), "`annotations` is not a list"),
        (coco(images=3), "`images` is not a list"),
        (coco(images=[{"id": 1}]), "entry 1 of `images`: `file_name` is not a text"),
        (coco(images=[{"id": True, "file_name": "a"}]), "has no `id` of its own"),
        (coco(images=[{"id": 1, "file_name": "a"}] * 2), "entry 2 of `images` has no `id`"),
        (
            coco(images=[{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "a"}]),
            "`file_name` occurs twice",
        ),
        (coco(annotations=[3]), "annotation 1 is not an object"),
        (coco(annotations=[{"image_id": 8, "bbox": [1, 2, 3, 4]}]), "not in `images`"),
        (coco(annotations=[{"image_id": 9}]), "`bbox` is `None`"),
        (coco(annotations=[]), "has no prompt"),
        (coco(categories=[{"id": 1}]), "entry 1 of `categories`"),
    ],
)
def test_json_that_is_refused(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(PromptError) as refused:
        load(tmp_path, content, ".json")
    assert said in refused.value.message


def test_files_that_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"does not end in \.csv or \.json"):
        load(tmp_path, "x,y\n1,2\n", ".txt")
    with pytest.raises(PromptError, match="does not exist"):
        prompt_files.load(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(PromptError, match="is a directory"):
        prompt_files.load(tmp_path / "folder.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(PromptError, match="is not a regular file"):
        prompt_files.load(tmp_path / "pipe.csv")


def test_large_files_are_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_files, "MAX_CSV_BYTES", 10)
    with pytest.raises(PromptError, match="more than 10 bytes"):
        load(tmp_path, "x,y\n1,2\n3,4\n")
    monkeypatch.setattr(prompt_files, "MAX_JSON_BYTES", 10)
    with pytest.raises(PromptError, match="more than 10 bytes"):
        load(tmp_path, '[{"box": [1,2,3,4]}]', ".json")
