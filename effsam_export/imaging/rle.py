"""Run-length encoding of masks for JSON: COCO's RLE, uncompressed and compressed.

Runs go down the columns (Fortran order) and alternate, background first. If the top left pixel is
set, the first run is 0. `pycocotools.mask.frPyObjects` reads the same object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from effsam_export.errors import BundleError
from effsam_export.imaging.decode import MAX_PIXELS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

HINT = "the file is damaged or was written by another program; export the bundle again"


def encode(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """Return the run lengths of a mask as an object for `json.dumps`.

    Args:
        mask: Bool HxW, at least one pixel.

    Returns:
        `{"size": [height, width], "counts": [...]}` in pixels; the sum of the counts is H * W.
    """
    flat = mask.ravel(order="F")
    starts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(starts, prepend=0, append=flat.size).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def encode_part(
    part: NDArray[np.bool_], origin: tuple[int, int], size: tuple[int, int]
) -> dict[str, list[int]]:
    """Return `encode` of a mask that is empty outside a rectangle, from that rectangle.

    Args:
        part: Bool hxw: the rectangle.
        origin: (x, y) of its first pixel in the mask.
        size: (height, width) of the mask.
    """
    height, width = size
    padded = np.zeros((part.shape[1], part.shape[0] + 2), dtype=np.int8)
    padded[:, 1:-1] = part.T
    steps = np.diff(padded, axis=1)
    first = (origin[0] + np.arange(part.shape[1])) * height + origin[1]  # of each column
    starts, ends = (
        first[columns] + rows for columns, rows in (np.nonzero(steps == step) for step in (1, -1))
    )
    # A run at the end of a column goes on in the next one.
    breaks = np.flatnonzero(starts[1:] != ends[:-1])
    edges = np.empty(2 * len(breaks) + 2 if len(starts) else 0, dtype=np.int64)
    edges[:1], edges[2::2] = starts[:1], starts[1:][breaks]
    edges[1:-1:2], edges[-1:] = ends[:-1][breaks], ends[-1:]
    counts = np.diff(edges, prepend=0, append=height * width).tolist()
    return {"size": [height, width], "counts": counts if counts[-1] else counts[:-1]}


def compressed(counts: Sequence[int]) -> str:
    """Return run lengths as the text that COCO files hold as `counts`.

    Each count after the third is stored as its difference from the one two before. A number is
    written five bits at a time, the lowest first, each with a bit that says whether more follow,
    as a character from code 48 on. Source: cocoapi, `common/maskApi.c`, `rleToString`.
    """
    text = []
    for i, count in enumerate(counts):
        rest = count - counts[i - 2] if i > 2 else count
        while True:
            bits, rest = rest & 31, rest >> 5
            # The highest of the five bits is the sign of a number that ends.
            ends = rest == (-1 if bits & 16 else 0)
            text.append(chr(48 + (bits if ends else bits | 32)))
            if ends:
                break
    return "".join(text)


def coco(rle: Mapping[str, list[int]]) -> dict[str, Any]:
    """Return an encoded mask as a COCO file's `segmentation`: with compressed counts."""
    return {"size": list(rle["size"]), "counts": compressed(rle["counts"])}


def decode(rle: object, size: tuple[int, int] | None = None) -> NDArray[np.bool_]:
    """Return the encoded mask: bool HxW, in C order.

    Args:
        rle: An untrusted object, as parsed from JSON. Runs of 0 are accepted anywhere, as in COCO's
            reader.
        size: The (height, width) that the mask must have; None for any.

    Raises:
        BundleError: As `check`.
    """
    height, width, counts = check(rle, size)
    is_set = np.arange(len(counts)) % 2 == 1
    flat = np.repeat(is_set, np.asarray(counts, dtype=np.int64))
    return np.ascontiguousarray(flat.reshape((height, width), order="F"))


def check(rle: object, size: tuple[int, int] | None = None) -> tuple[int, int, list[int]]:
    """Return height, width and run lengths of an encoded mask, without decoding it.

    Raises:
        BundleError: `size` or `counts` is missing or malformed, the size is over the limit or not
            `size`, or the counts do not add up to it.
    """
    if not (isinstance(rle, dict) and {"size", "counts"} <= rle.keys()):
        raise _bad("is not an object with `size` and `counts`")
    own, counts = rle["size"], rle["counts"]
    if not (_are_counts(own) and len(own) == 2 and min(own) > 0):
        raise _bad("has a `size` that is not [height, width] in pixels")
    height, width = own
    if size is not None and (height, width) != size:
        raise _bad(f"has {height}x{width} pixels, want {size[0]}x{size[1]}")
    if height * width > MAX_PIXELS:
        raise _bad(f"has {height}x{width} pixels, over the limit of {MAX_PIXELS}")
    if not _are_counts(counts):
        raise _bad("has `counts` that are not a list of non-negative whole numbers")
    # Python integers, because numpy's would overflow on malicious counts.
    total = sum(counts)
    if total != height * width:
        raise _bad(f"has counts of {total} pixels, but a size of {height}x{width}")
    return height, width, counts


def _are_counts(value: object) -> bool:
    # `type` and not `isinstance`, because in Python `True` is an `int`.
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _bad(what: str) -> BundleError:
    return BundleError(f"a run-length encoded mask {what}", hint=HINT)
