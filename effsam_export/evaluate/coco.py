"""Read annotated objects from a COCO file; their masks are read by pycocotools."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from effsam_export.errors import MAX_JOINED, ImageError, ToolchainMissing, UsageError, shown
from effsam_export.evaluate.dataset import AnnotatedImage, AnnotatedObject, Dataset
from effsam_export.evaluate.segmentations import to_rle
from effsam_export.imaging.decode import MAX_PIXELS, image_size
from effsam_export.util import json_text
from effsam_export.util.files import fault_of_file
from effsam_export.util.reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_BYTES = 1_000_000_000
"""The largest file of COCO 2017, of the training images, has 470 MB."""
MAX_VALUES = 300_000_000
MAX_MARKS = 100_000_000
Id = int | str
Entries = dict[Id, "dict[str, Any] | None"]
LISTS = ("images", "annotations")
HINT = "--coco takes a file of object instances in COCO's format, --images the folder of its images"


class _Faults:
    """Sentences on what is wrong with a file; the first ones are kept, the others are counted."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.count = 0

    def add(self, line: str) -> None:
        self.count += 1
        if len(self.lines) < MAX_JOINED:
            self.lines.append(line)


def load(annotations: Path, folder: Path, *, crowds: bool = False) -> Dataset:
    """Read a COCO file of object instances, and check it and that its images are there.

    Annotations of crowds, and those with an area below one pixel, are left out.

    Args:
        annotations: The JSON file.
        folder: Folder of the images, to which `file_name` is relative.
        crowds: Keep the annotations of crowds too.

    Raises:
        UsageError: The file cannot be read or is no JSON; or the message lists its faults: missing
            keys, malformed masks, images that are missing or of another size.
        ToolchainMissing: `pycocotools` is not installed.
    """
    if find_spec("pycocotools") is None:
        raise ToolchainMissing("reading annotated masks", "pycocotools", "eval")
    content = _content(annotations)
    try:
        document = json_text.loads(
            content, max_bytes=MAX_BYTES, max_values=MAX_VALUES, max_marks=MAX_MARKS
        )
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"annotations `{annotations}` are not valid JSON: {shown(reason_of(error))}", hint=HINT
        ) from error
    if not isinstance(document, dict) or not all(isinstance(document.get(k), list) for k in LISTS):
        raise UsageError(
            f"annotations `{annotations}` have no lists `images` and `annotations`", hint=HINT
        )
    faults = _Faults()
    entries = _image_entries(document["images"], faults)
    objects: dict[Id, list[AnnotatedObject]] = {}
    left_out = {"crowds": 0, "empty": 0}
    seen: set[Id] = set()
    for row in document["annotations"]:
        why = _annotation(row, entries, seen, objects, faults, crowds=crowds)
        if why:
            left_out[why] += 1
    images = [
        image
        for id_, entry in entries.items()
        if entry and id_ in objects and (image := _image(entry, folder, objects[id_], faults))
    ]
    if not faults.count and not images:
        faults.add("no annotation has a mask to evaluate")
    _raise(annotations, folder, faults)
    return Dataset(
        file=annotations.name,
        sha256=hashlib.sha256(content).hexdigest(),
        images=tuple(images),
        crowds=left_out["crowds"],
        empty=left_out["empty"],
    )


def _content(path: Path) -> bytes:
    if fault := fault_of_file(path):
        raise UsageError(f"annotations `{path}` {fault}", hint="give a COCO file with --coco FILE")
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"annotations `{path}` cannot be read: {reason_of(error)}") from error


def _image_entries(rows: list[Any], faults: _Faults) -> Entries:
    """Return the entries of `images` by id; None for one that has a fault."""
    entries: Entries = {}
    for number, row in enumerate(rows):
        if not (isinstance(row, dict) and _is_id(row.get("id"))):
            faults.add(f"`images[{number}]` has no `id`")
        elif row["id"] in entries:
            faults.add(f"image {shown(row['id'])} occurs twice")
        else:
            fault = _entry_fault(row)
            entries[row["id"]] = None if fault else row
            if fault:
                faults.add(f"image {shown(row['id'])} {fault}")
    return entries


def _entry_fault(row: Mapping[str, Any]) -> str:
    """Return what is wrong with an entry of `images` as the end of a sentence."""
    name: Any = row.get("file_name")
    height: Any = row.get("height")
    width: Any = row.get("width")
    if not isinstance(name, str) or not _is_inside(name):
        return "has no `file_name` that is a path inside the folder of images"
    if not all(type(n) is int and n > 0 for n in (height, width)):
        return "has no `height` and `width` in pixels"
    if height * width > MAX_PIXELS:
        return f"has {height}x{width} pixels, over the limit of {MAX_PIXELS}"
    return ""


def _is_id(value: object) -> bool:
    # `type` and not `isinstance`, because in Python `True` is an `int`.
    return type(value) is int or (isinstance(value, str) and value != "")


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and "\0" not in name and not path.is_absolute() and ".." not in path.parts


def _annotation(
    row: Any,  # noqa: ANN401 - any JSON
    entries: Entries,
    seen: set[Id],
    objects: dict[Id, list[AnnotatedObject]],
    faults: _Faults,
    *,
    crowds: bool,
) -> str:
    """Add one annotation to `objects`; return why it is left out, `crowds` or `empty`, if it is."""
    if not (isinstance(row, dict) and _is_id(row.get("id"))):
        faults.add("an annotation has no `id`")
        return ""
    where = f"annotation {shown(row['id'])}"
    if row["id"] in seen:
        faults.add(f"{where} occurs twice")
        return ""
    seen.add(row["id"])
    image = row.get("image_id")
    if not _is_id(image) or image not in entries:
        faults.add(f"{where} is of image {shown(image)}, which is not in `images`")
        return ""
    if row.get("iscrowd") and not crowds:
        return "crowds"
    entry = entries[image]
    if entry is None:
        return ""
    area, box = row.get("area"), row.get("bbox")
    if area is not None and not (_is_number(area) and area >= 0):
        faults.add(f"{where} has an `area` that is no number of pixels")
    elif box is not None and not _is_box(box):
        faults.add(f"{where} has a `bbox` that is not [x, y, width, height]")
    else:
        found = to_rle(row.get("segmentation"), (entry["height"], entry["width"]))
        if isinstance(found, str):
            faults.add(f"{where} {found}")
        else:
            return _add(row, found, objects.setdefault(image, []))
    return ""


def _add(row: Mapping[str, Any], mask: dict[str, Any], objects: list[AnnotatedObject]) -> str:
    """Add an object unless it is empty; return `empty` if it is."""
    from pycocotools import mask as mask_tools

    pixels = float(mask_tools.area(mask))
    area = row.get("area")
    if pixels < 1 or (area is not None and area < 1):
        return "empty"
    height, width = mask["size"]
    x, y, w, h = map(float, row.get("bbox") or mask_tools.toBbox(mask))
    if not (w > 0 and h > 0 and x < width and y < height and x + w > 0 and y + h > 0):
        x, y, w, h = map(float, mask_tools.toBbox(mask))
    objects.append(
        AnnotatedObject(
            id=row["id"],
            mask=mask,
            area=pixels if area is None else float(area),
            box=(x, y, x + w, y + h),
        )
    )
    return ""


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _is_box(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _image(
    entry: Mapping[str, Any], folder: Path, objects: list[AnnotatedObject], faults: _Faults
) -> AnnotatedImage | None:
    """Return an image whose file is there and has the size of its entry."""
    path = folder / entry["file_name"]
    wanted = (entry["height"], entry["width"])
    try:
        size = image_size(path)
    except ImageError as error:
        faults.add(error.message)
        return None
    if size != wanted:
        faults.add(
            f"image `{path}` has {size[1]}x{size[0]} pixels after its EXIF rotation, its entry "
            f"says {wanted[1]}x{wanted[0]}"
        )
        return None
    return AnnotatedImage(id=entry["id"], path=path, size=wanted, objects=tuple(objects))


def _raise(annotations: Path, folder: Path, faults: _Faults) -> None:
    """Raise one error that lists the faults, if there are any."""
    if not faults.count:
        return
    if faults.count == 1:
        raise UsageError(f"annotations `{annotations}`: {faults.lines[0]}", hint=HINT)
    more = faults.count - len(faults.lines)
    raise UsageError(
        f"annotations `{annotations}`, images in `{folder}`: {faults.count} problems",
        lines=[*faults.lines, *([f"and {more} more"] if more else [])],
        hint=HINT,
    )
