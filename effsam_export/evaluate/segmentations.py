"""Masks as COCO's compressed run lengths: from an annotation's `segmentation`, and from pixels.

pycocotools computes in C and trusts what it is given, so the values are checked before.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from effsam_export.errors import BundleError
from effsam_export.imaging import rle

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_NUMBERS = 6
"""Of a polygon: three points."""
MAX_OUTLINE = 2_000_000
"""Pixels of all outlines of an object. pycocotools takes 80 bytes for each."""
MAX_CHARACTERS = 8
"""Of one number of compressed counts: 40 bits."""


def to_rle(segmentation: Any, size: tuple[int, int]) -> dict[str, Any] | str:  # noqa: ANN401
    """Return the mask of a segmentation, or what is wrong with it as the end of a sentence.

    Args:
        segmentation: Polygons, or run lengths with a list or with compressed text of counts.
        size: Height and width of the image.

    Returns:
        `{"size": [height, width], "counts": bytes}`, as `pycocotools.mask` takes it.
    """
    from pycocotools import mask as mask_tools

    height, width = size
    if isinstance(segmentation, list):
        if fault := _polygons_fault(segmentation, size):
            return fault
        parts = mask_tools.frPyObjects(segmentation, height, width)
        merged: dict[str, Any] = mask_tools.merge(parts)
        return merged
    if not isinstance(segmentation, dict):
        return "has no `segmentation` of polygons or run lengths"
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        counts = decompressed(counts)
        if counts is None:
            return "has compressed `counts` that cannot be read"
    runs = {"size": segmentation.get("size"), "counts": counts}
    try:
        rle.check(runs, size)
    except BundleError as error:
        return f"has a mask that is malformed: {error.message}"
    read: dict[str, Any] = mask_tools.frPyObjects(runs, height, width)
    return read


def decoded(mask: dict[str, Any]) -> NDArray[np.bool_]:
    """Return a mask of compressed run lengths as bool HxW in C order."""
    from pycocotools import mask as mask_tools

    with warnings.catch_warnings():
        # numpy 2 warns of how pycocotools makes its arrays.
        warnings.simplefilter("ignore", DeprecationWarning)
        return np.ascontiguousarray(mask_tools.decode(mask), dtype=np.bool_)


def encoded(mask: NDArray[np.bool_]) -> str:
    """Return the compressed run lengths of a mask, bool HxW."""
    from pycocotools import mask as mask_tools

    counts: bytes = mask_tools.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts.decode("ascii")


def decompressed(text: str) -> list[int] | None:
    """Return the run lengths in COCO's compressed text, the reverse of `rle.compressed`.

    None if it ends within a number, has other characters or a number that no image needs.
    """
    counts: list[int] = []
    value = used = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or used == MAX_CHARACTERS:
            return None
        value |= (bits & 31) << 5 * used
        used += 1
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << 5 * used
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = used = 0
    return None if used else counts


def _polygons_fault(polygons: list[Any], size: tuple[int, int]) -> str:
    """Return what is wrong with a list of polygons [x, y, x, y, ...] as the end of a sentence.

    Memory grows with the length of an outline, so that is limited. Points may lie at most one
    image's size outside the image.
    """
    height, width = size
    outline = 0.0
    if not polygons:
        return "has no polygon"
    for polygon in polygons:
        if not (isinstance(polygon, list) and all(type(n) in (int, float) for n in polygon)):
            return "has a polygon that is no list of numbers"
        if len(polygon) < MIN_NUMBERS or len(polygon) % 2:
            return f"has a polygon of {len(polygon)} numbers, want x and y of at least 3 points"
        xs, ys = polygon[::2], polygon[1::2]
        if min(xs) < -width or max(xs) > 2 * width or min(ys) < -height or max(ys) > 2 * height:
            return f"has a polygon far outside its image of {width}x{height} pixels"
        outline += sum(
            abs(values[i] - values[i - 1]) for values in (xs, ys) for i in range(len(values))
        )
    if outline > MAX_OUTLINE:
        return f"has an outline of over {MAX_OUTLINE:,} pixels"
    return ""
