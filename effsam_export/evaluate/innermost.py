"""The pixel of a mask that is farthest from its outline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Integers = NDArray[np.int64]


def innermost(
    mask: NDArray[np.bool_], without: Sequence[tuple[int, int]] = ()
) -> tuple[int, tuple[int, int]]:
    """Return the pixel with the greatest Euclidean distance to the nearest pixel off a mask.

    Pixels outside the image are off the mask. Of several pixels it is the first in reading order.

    Args:
        mask: Bool HxW.
        without: Pixels (row, column) whose distance counts as 0.

    Returns:
        The square of the distance, in pixels, and (row, column). 0 and (0, 0) for an empty mask.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return 0, (0, 0)
    # One pixel off the mask all around.
    top, left = int(rows[0]) - 1, int(columns[0]) - 1
    part = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    passed = [(r - top, c - left) for r, c in without]
    passed = [(r, c) for r, c in passed if 0 <= r < part.shape[0] and 0 <= c < part.shape[1]]
    squares, numbers = _squares(part, passed)
    for row, column in passed:
        squares[numbers == row, column] = 0
    index, column = divmod(int(squares.argmax()), squares.shape[1])
    square = int(squares[index, column])
    return (square, (top + int(numbers[index]), left + column)) if square else (0, (0, 0))


def _squares(
    mask: NDArray[np.bool_], without: Sequence[tuple[int, int]]
) -> tuple[Integers, Integers]:
    """Return the squared distances in the rows that can hold the greatest, and their numbers.

    The distances along the columns are found first. One more column to the side adds the next odd
    number to a square, so k steps give the least square within k columns. A row is left out as soon
    as its squares are below the exact one of a pixel that lies far from the outline in both
    directions.
    """
    down = _distances(mask)
    both = np.minimum(down, _distances(mask.T).T)
    for row, column in without:
        both[row, column] = 0
    row, column = divmod(int(both.argmax()), mask.shape[1])
    least = int((down[row] ** 2 + (np.arange(mask.shape[1]) - column) ** 2).min())
    squares, numbers = down**2, np.arange(mask.shape[0])
    for odd in range(1, 2 * mask.shape[1], 2):
        able = squares.max(axis=1) >= least
        squares, numbers = squares[able], numbers[able]
        nearer = squares.copy()
        np.minimum(nearer[:, 1:], squares[:, :-1] + odd, out=nearer[:, 1:])
        np.minimum(nearer[:, :-1], squares[:, 1:] + odd, out=nearer[:, :-1])
        if np.array_equal(nearer, squares):
            break
        squares = nearer
    return squares, numbers


def _distances(mask: NDArray[np.bool_]) -> Integers:
    """Return the distance of each pixel to the nearest one off the mask in its column."""
    height = mask.shape[0]
    index = np.arange(height)[:, None]
    above = np.maximum.accumulate(np.where(mask, -height, index), axis=0)
    below = np.minimum.accumulate(np.where(mask, 2 * height, index)[::-1], axis=0)[::-1]
    return np.asarray(np.minimum(index - above, below - index), dtype=np.int64)
