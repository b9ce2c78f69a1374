"""Prompts in a CSV file: a header, then a line for each point or box."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from effsam_export.errors import shown
from effsam_export.inference.prompt_entries import (
    MAX_PROMPTS,
    PromptEntry,
    is_coordinate,
    name_fault,
    to_point,
)
from effsam_export.inference.run_records import OBJECT
from effsam_export.spec.prompts import MAX_POINTS, Point, Prompt
from effsam_export.util.numbers import to_number

if TYPE_CHECKING:
    from collections.abc import Iterator

    Box = tuple[float, float, float, float]
    Group = list[tuple[int, dict[str, str]]]

POINT = ("x", "y")
BOX = ("x0", "y0", "x1", "y1")
BOXES = (BOX, ("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"))
"""Names of the two corners of a box, in the order of `BOX`."""
IMAGES = ("image", "file_name", "filename", "file")
OTHERS = ("prompt", "label", "category")
MAX_SHOWN = 20
"""Problems that are listed; the rest of the file is not read."""


def parse(text: str) -> tuple[list[PromptEntry], list[str]]:
    """Return the prompts of a CSV file, and a sentence for each problem.

    Columns: `image`; `x`, `y` and `label` (1 or 0; 1 by default) for a point; the corners of a
    box; `prompt`, whose equal values join the lines of one image to one prompt; `category`. A
    line has a point, a box or both.

    Raises:
        ValueError: It is not CSV.
    """
    if "\0" in text:
        raise ValueError("it has a null character")
    first = text.split("\n", 1)[0]
    delimiter = next((d for d in ",;\t" if d in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        columns, problems = _columns(header)
        if problems:
            return [], problems
        groups = _groups(reader, columns, problems)
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error
    entries = []
    for (image, _), lines in groups.items():
        entry = _entry(image, lines, problems)
        entries += [entry] if entry is not None else []
        if len(problems) > MAX_SHOWN:
            break
    return entries, problems


def _columns(header: list[str]) -> tuple[list[str], list[str]]:
    """Return the columns by their names in `IMAGES[0]`, `POINT`, `BOX` and `OTHERS`."""
    names = {**dict.fromkeys(IMAGES, IMAGES[0]), **{name: name for name in (*POINT, *OTHERS)}}
    corners = next((box for box in BOXES if set(box) <= {*header}), ())
    names |= dict(zip(corners, BOX, strict=False))
    problems = [f"column `{shown(name)}` is unknown" for name in header if name not in names]
    columns = [names.get(name, name) for name in header]
    problems += [
        f"column `{shown(name)}` occurs twice"
        for name in dict.fromkeys(columns)
        if columns.count(name) > 1
    ]
    if not problems and not corners and not {*POINT} <= {*header}:
        problems.append(f"has neither columns {', '.join(POINT)} nor {', '.join(BOX)}")
    return columns, problems


def _groups(
    reader: Iterator[list[str]], columns: list[str], problems: list[str]
) -> dict[tuple[str | None, str | int], Group]:
    """Return the lines of each prompt, by its image and its value of `prompt`."""
    groups: dict[tuple[str | None, str | int], Group] = {}
    for number, cells in enumerate(reader, start=2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(columns):
            problems.append(f"line {number} has {len(cells)} values, the header {len(columns)}")
        elif len(groups) > MAX_PROMPTS:
            problems.append(f"has more than {MAX_PROMPTS} prompts")
        else:
            row = {c: cell.strip() for c, cell in zip(columns, cells, strict=True)}
            image = row.get("image")
            fault = None if image is None else name_fault("image", image)
            problems += [f"line {number}: {fault}"] if fault else []
            # Without a value of its own, a line is a prompt.
            key = row.get("prompt") or number
            groups.setdefault((image, key), []).append((number, row))
        if len(problems) > MAX_SHOWN:
            break
    return groups


def _entry(image: str | None, lines: Group, problems: list[str]) -> PromptEntry | None:
    """Return the prompt of some lines, or None after adding their problems."""
    points: list[Point] = []
    boxes: list[Box] = []
    categories = list(dict.fromkeys(row.get("category") or OBJECT for _, row in lines))
    found: list[str] = []
    for number, row in lines:
        before = len(points) + len(boxes)
        for read in (_point(row), _box(row)):
            if isinstance(read, str):
                found.append(f"line {number}: {read}")
            elif isinstance(read, Point):
                points.append(read)
            elif read is not None:
                boxes.append(read)
        if len(points) + len(boxes) == before and not found:
            found.append(f"line {number} has no point and no box")
    first = lines[0][0]
    if len(boxes) > 1:
        found.append(f"the prompt of line {first} has {len(boxes)} boxes")
    if len(points) > MAX_POINTS:
        found.append(f"the prompt of line {first} has more than {MAX_POINTS} points")
    if len(categories) > 1:
        found.append(f"the prompt of line {first} has several categories")
    if fault := name_fault("category", categories[0]):
        found.append(f"line {first}: {fault}")
    problems += found
    if found:
        return None
    prompt = Prompt(points=tuple(points), box=boxes[0] if boxes else None)
    return PromptEntry(image=image, prompt=prompt, category=categories[0])


def _point(row: dict[str, str]) -> Point | str | None:
    """Return the point of a line, why it is wrong, or None where there is none."""
    texts = [row.get(name, "") for name in POINT]
    if not any(texts):
        return f"label `{shown(row['label'])}` has no point" if row.get("label") else None
    values = [to_number(text) for text in texts]
    if None in values:
        return f"x, y `{shown(','.join(texts))}` are not two numbers"
    text = row.get("label") or "1"
    label = to_number(text)
    return to_point(values[0] or 0.0, values[1] or 0.0, text if label is None else label)


def _box(row: dict[str, str]) -> Box | str | None:
    """Return the box of a line, why it is wrong, or None where there is none."""
    texts = [row.get(name, "") for name in BOX]
    if not any(texts):
        return None
    values = [n for text in texts if (n := to_number(text)) is not None and is_coordinate(n)]
    if len(values) != len(BOX):
        return f"box `{shown(','.join(texts))}` is not four numbers of an image"
    return values[0], values[1], values[2], values[3]
