"""Means over objects with bootstrap intervals. The objects of one image are drawn together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Interval = tuple[float, float]

RESAMPLES = 2000
CONFIDENCE = 0.95
CHUNK = 4_000_000
"""Numbers of draws that are held at once."""


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over objects.

    Attributes:
        count: Number of objects.
        value: Their mean.
        interval: Limits of its 95 % bootstrap interval; None with fewer than two images.
    """

    count: int
    value: float
    interval: Interval | None


def means(
    sums: NDArray[np.float64], counts: NDArray[np.int64], seed: int, resamples: int = RESAMPLES
) -> list[Mean | None]:
    """Return the mean of each group of objects; None for a group without objects.

    The interval is the percentile bootstrap's (Efron, 1979): images are drawn with replacement, as
    many as there are, and the mean over all objects of the drawn images is taken each time. A draw
    without an object of the group does not count.

    Args:
        sums: images x groups, the sum of the values of the objects of a group in an image.
        counts: images x groups, the number of these objects.
        seed: Of the draws, which all groups share.
        resamples: Number of draws.
    """
    images, groups = sums.shape
    drawn = _draws(sums, counts, seed, resamples) if images else None
    found: list[Mean | None] = []
    for group in range(groups):
        count = int(counts[:, group].sum())
        if not count or drawn is None:
            found.append(None)
            continue
        interval = None
        if np.count_nonzero(counts[:, group]) > 1:
            values = drawn[:, group]
            tail = (1 - CONFIDENCE) / 2
            low, high = np.quantile(values[np.isfinite(values)], [tail, 1 - tail])
            interval = (float(low), float(high))
        found.append(
            Mean(count=count, value=float(sums[:, group].sum()) / count, interval=interval)
        )
    return found


def _draws(
    sums: NDArray[np.float64], counts: NDArray[np.int64], seed: int, resamples: int
) -> NDArray[np.float64]:
    """Return the means of all groups for each draw, draws x groups; NaN without an object."""
    images = len(sums)
    generator = np.random.default_rng(seed)
    size = max(1, CHUNK // images)
    parts = []
    for start in range(0, resamples, size):
        times = generator.multinomial(
            images, np.full(images, 1 / images), size=min(size, resamples - start)
        )
        with np.errstate(invalid="ignore"):
            parts.append((times @ sums) / (times @ counts))
    return np.concatenate(parts)
