"""Prompts in a JSON document: this package's own, or the boxes of a COCO file."""

from __future__ import annotations

from typing import Any

from effsam_export.errors import shown
from effsam_export.inference.prompt_entries import PromptEntry, is_coordinate, name_fault, to_point
from effsam_export.inference.run_records import OBJECT
from effsam_export.spec.prompts import MAX_POINTS, Point, Prompt

KEYS = ("image", "points", "box", "category")
MAX_SHOWN = 20
"""Problems that are listed; the rest of the document is not read."""


def parse(document: Any) -> tuple[list[PromptEntry], list[str]]:  # noqa: ANN401 - untrusted JSON
    """Return the prompts of a document, and a sentence for each problem.

    The document is a list, or an object whose `prompts` is one. Each entry has `points` [[x, y] or
    [x, y, label], ...] or `box` [x0, y0, x1, y1] or both, and may have `image` and `category`.
    """
    entries = document.get("prompts") if isinstance(document, dict) else document
    if not isinstance(entries, list):
        return [], ["is neither a list of prompts, nor an object with `prompts`, nor a COCO file"]
    if isinstance(document, dict) and len(document) > 1:
        return [], [f"key `{shown(k)}` is unknown" for k in document if k != "prompts"]
    found, problems = [], []
    for number, entry in enumerate(entries, start=1):
        read = _entry(entry)
        if isinstance(read, PromptEntry):
            found.append(read)
        else:
            problems += [f"prompt {number}: {fault}" for fault in read]
        if len(problems) > MAX_SHOWN:
            break
    return found, problems


def _entry(entry: object) -> PromptEntry | list[str]:
    """Return a prompt, or what is wrong with it."""
    if not isinstance(entry, dict):
        return ["is not an object"]
    if "image_id" in entry:
        return ["has `image_id`: give the COCO file with `images` and `annotations`"]
    faults = [f"key `{shown(key)}` is unknown" for key in entry if key not in KEYS]
    image, category = entry.get("image"), entry.get("category", OBJECT)
    faults += [f] if image is not None and (f := name_fault("image", image)) else []
    faults += [f] if (f := name_fault("category", category)) else []
    given, box = entry.get("points") or [], entry.get("box")
    points: list[Point] = []
    if not isinstance(given, list) or len(given) > MAX_POINTS:
        faults.append(f"`points` is not a list of at most {MAX_POINTS} points")
    else:
        for value in given:
            point = _point(value)
            if isinstance(point, Point):
                points.append(point)
            else:
                faults.append(point)
    if box is not None and not _are_coordinates(box, 4):
        faults.append(f"`box` is `{shown(box)}`, want [x0, y0, x1, y1]")
    if not faults and not points and box is None:
        faults.append("has no `points` and no `box`")
    if faults:
        return faults
    corners = None if box is None else (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
    return PromptEntry(
        image=image, prompt=Prompt(points=tuple(points), box=corners), category=category
    )


def _point(value: object) -> Point | str:
    if not isinstance(value, list) or len(value) not in (2, 3):
        return f"point `{shown(value)}` is not [x, y] or [x, y, label]"
    if not _are_coordinates(value[:2], 2):
        return f"point `{shown(value)}` has coordinates that are not numbers of an image"
    return to_point(value[0], value[1], value[2] if len(value) == 3 else 1)


def _are_coordinates(value: object, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(map(is_coordinate, value))


def is_coco(document: object) -> bool:
    """Return whether a document is in COCO's format."""
    return isinstance(document, dict) and {"images", "annotations"} <= document.keys()


def parse_coco(
    document: dict[str, Any],
) -> tuple[list[PromptEntry], dict[str, int], dict[str, int], list[str]]:
    """Return the boxes of a COCO file, its images and categories, and a sentence for each problem.

    Of `annotations`, `image_id`, `bbox` [x, y, width, height] and `category_id` are read.
    """
    problems: list[str] = []
    images = _numbered("images", document["images"], "file_name", problems)
    categories = _numbered("categories", document.get("categories") or [], "name", problems)
    annotations = document["annotations"]
    if not isinstance(annotations, list):
        problems.append("`annotations` is not a list")
    entries: list[PromptEntry] = []
    for number, annotation in enumerate(annotations if not problems else (), start=1):
        where = f"annotation {number}"
        if not isinstance(annotation, dict):
            problems.append(f"{where} is not an object")
        elif not _is_id(annotation.get("image_id")) or annotation["image_id"] not in images:
            problems.append(f"{where} has an `image_id` that is not in `images`")
        elif not _are_coordinates(annotation.get("bbox"), 4):
            box = shown(annotation.get("bbox"))
            problems.append(f"{where}: `bbox` is `{box}`, want [x, y, width, height]")
        else:
            x, y, width, height = map(float, annotation["bbox"])
            category: Any = annotation.get("category_id")
            if _is_id(category):
                categories.setdefault(category, f"category {category}")
            entries.append(
                PromptEntry(
                    image=images[annotation["image_id"]],
                    prompt=Prompt(box=(x, y, x + width, y + height)),
                    category=categories[category] if _is_id(category) else OBJECT,
                )
            )
        if len(problems) > MAX_SHOWN:
            break
    return entries, _turned(images), _turned(categories), problems


def _numbered(what: str, values: object, name: str, problems: list[str]) -> dict[int, str]:
    """Return the names of a list of objects by their ids."""
    found: dict[int, str] = {}
    if not isinstance(values, list):
        problems.append(f"`{what}` is not a list")
        return found
    names: set[str] = set()
    for number, value in enumerate(values, start=1):
        own: Any = value.get(name) if isinstance(value, dict) else None
        key: Any = value.get("id") if isinstance(value, dict) else None
        where = f"entry {number} of `{what}`"
        if not _is_id(key) or key in found:
            problems.append(f"{where} has no `id` of its own, a whole number")
        elif (fault := name_fault(name, own)) or own in names:
            problems.append(f"{where}: {fault or f'`{name}` occurs twice'}")
        else:
            found[key] = own
            names.add(own)
        if len(problems) > MAX_SHOWN:
            break
    return found


def _is_id(value: object) -> bool:
    return type(value) is int


def _turned(names: dict[int, str]) -> dict[str, int]:
    return {name: number for number, name in names.items()}
