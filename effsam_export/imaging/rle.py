"""Masks as run lengths, small enough for JSON: COCO's uncompressed RLE.

Runs go down the columns (Fortran order) and alternate, background first; a mask whose top left
pixel is set begins with a run of 0. `pycocotools.mask.frPyObjects` reads the same object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from effsam_export.errors import BundleError
from effsam_export.imaging.images import MAX_PIXELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

HINT = "the file was damaged or made by another program; export the bundle again"


def encode(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """Run lengths of a mask, ready for `json.dumps`.

    Args:
        mask: Bool HxW, of at least one pixel.

    Returns:
        `{"size": [height, width], "counts": [...]}` in pixels; the counts add up to H * W.
    """
    flat = mask.ravel(order="F")
    starts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(starts, prepend=0, append=flat.size).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def decode(rle: object) -> NDArray[np.bool_]:
    """The mask that `encode` was given: bool HxW, in C order.

    Args:
        rle: An object as `json.loads` gives it; nothing about it is taken on trust. Runs of 0
            are accepted anywhere, as COCO's own reader does.

    Raises:
        BundleError: It is no object with `size` and `counts`, the size is not that of an image,
            or the counts are not whole, non-negative and adding up to it.
    """
    if not (isinstance(rle, dict) and {"size", "counts"} <= rle.keys()):
        raise _bad("is not an object with `size` and `counts`")
    size, counts = rle["size"], rle["counts"]
    if not (_are_counts(size) and len(size) == 2 and min(size) > 0):
        raise _bad("has a `size` that is not [height, width] in pixels")
    height, width = size
    if height * width > MAX_PIXELS:
        raise _bad(f"has {height}x{width} pixels, over the limit of {MAX_PIXELS}")
    if not _are_counts(counts):
        raise _bad("has `counts` that are not a list of non-negative whole numbers")
    # Summed as Python integers: numpy's would wrap around on hostile ones.
    total = sum(counts)
    if total != height * width:
        raise _bad(f"has counts of {total} pixels, and its size is {height}x{width}")
    is_set = np.arange(len(counts)) % 2 == 1
    flat = np.repeat(is_set, np.asarray(counts, dtype=np.int64))
    return np.ascontiguousarray(flat.reshape((height, width), order="F"))


def _are_counts(value: object) -> bool:
    # `type` and not `isinstance`: JSON's true is no number, though Python's is.
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _bad(what: str) -> BundleError:
    return BundleError(f"a run-length encoded mask {what}", hint=HINT)
