"""The extent and the connected regions of a mask, and the removal of small ones. numpy alone.

Source of the removal: segment-anything (dca509f), `utils/amg.py`, `remove_small_regions`, which
calls OpenCV's `connectedComponentsWithStats` with 8 neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def bounding_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Return (x0, y0, x1, y1) of the first and last pixels of a mask HxW; None if it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


@dataclass(frozen=True, kw_only=True)
class Regions:
    """The regions of a mask as runs of pixels along its rows, in the order of the pixels.

    Attributes:
        rows: N: the row of each run.
        starts: N: its first column.
        ends: N: the column after its last one.
        labels: N: number of its region, which is the index of the region's first run.
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    labels: NDArray[np.int64]

    def areas(self) -> NDArray[np.int64]:
        """Return the number of pixels of the region of each run, N."""
        total = np.zeros(len(self.labels), dtype=np.int64)
        np.add.at(total, self.labels, self.ends - self.starts)
        return total[self.labels]

    def painted(self, selected: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
        """Return a mask of (height, width) with the selected runs."""
        steps = np.zeros((size[0], size[1] + 1), dtype=np.int8)
        steps[self.rows[selected], self.starts[selected]] = 1
        # Where one run ends, no other begins.
        steps[self.rows[selected], self.ends[selected]] = -1
        return np.cumsum(steps, axis=1, dtype=np.int8)[:, :-1].astype(np.bool_)


def regions(mask: NDArray[np.bool_]) -> Regions:
    """Return the regions of a mask HxW. Pixels that touch at a corner are of one region."""
    height, width = mask.shape
    padded = np.zeros((height, width + 2), dtype=np.int8)
    padded[:, 1:-1] = mask
    steps = np.diff(padded, axis=1)
    rows, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]
    return Regions(rows=rows, starts=starts, ends=ends, labels=_labels(rows, starts, ends, width))


def _labels(
    rows: NDArray[np.int64], starts: NDArray[np.int64], ends: NDArray[np.int64], width: int
) -> NDArray[np.int64]:
    """Return the label of each run: the least index of the runs that it is connected with."""
    # The runs above one run that touch it follow each other.
    stride = width + 2
    above = (rows - 1) * stride
    first = np.searchsorted(rows * stride + ends, above + starts, side="left")
    last = np.searchsorted(rows * stride + starts, above + ends, side="right")
    counts = np.maximum(last - first, 0)
    lower = np.repeat(np.arange(len(rows)), counts)
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    upper = np.repeat(first, counts) + offsets
    labels = np.arange(len(rows))
    while True:
        one, other = labels[upper], labels[lower]
        if np.array_equal(one, other):
            return labels
        np.minimum.at(labels, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(labels, jumped := labels[labels]):
            labels = jumped


def without_small_holes(mask: NDArray[np.bool_], area: int) -> tuple[NDArray[np.bool_], bool]:
    """Fill the regions outside a mask that have fewer than `area` pixels.

    Returns:
        The mask, and whether it changed.
    """
    outside = regions(~mask)
    small = outside.areas() < area
    if not small.any():
        return mask, False
    return mask | outside.painted(small, (mask.shape[0], mask.shape[1])), True


def without_small_islands(mask: NDArray[np.bool_], area: int) -> tuple[NDArray[np.bool_], bool]:
    """Remove the regions of a mask that have fewer than `area` pixels; the largest one stays.

    Returns:
        The mask, and whether there was such a region.
    """
    found = regions(mask)
    areas = found.areas()
    small = areas < area
    if not small.any():
        return mask, False
    kept = ~small
    if not kept.any():
        kept = found.labels == found.labels[int(np.argmax(areas))]
    return found.painted(kept, (mask.shape[0], mask.shape[1])), True
