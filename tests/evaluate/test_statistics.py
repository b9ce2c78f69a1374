"""Bootstrap intervals hold the true mean as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from effsam_export.evaluate.statistics import means

IMAGES, DATASETS = 60, 400
TRUE_MEAN = 6 / 8
"""Of a beta distribution with the parameters 6 and 2, skewed as IoUs are."""


def covered(sums: np.ndarray, counts: np.ndarray) -> float:
    """Share of the datasets whose interval holds the true mean."""
    found = means(sums, counts, seed=0)
    intervals = [f.interval for f in found if f is not None and f.interval is not None]
    assert len(intervals) == DATASETS
    return sum(low <= TRUE_MEAN <= high for low, high in intervals) / DATASETS


def test_intervals_hold_a_known_mean_at_95_percent() -> None:
    values = np.random.default_rng(1).beta(6, 2, (IMAGES, DATASETS))
    share = covered(values, np.ones(values.shape, np.int64))
    # Three standard errors of 400 draws are 0.033; the bootstrap of 60 values is a little narrow.
    assert 0.91 <= share <= 0.98


def test_objects_of_an_image_are_drawn_together() -> None:
    """Ten equal objects in an image are one value: with 600 of them nothing is known better."""
    generator = np.random.default_rng(2)
    values = generator.beta(6, 2, (IMAGES, DATASETS))
    counts = np.full(values.shape, 10, np.int64)
    assert 0.91 <= covered(10 * values, counts) <= 0.98
    # Drawn one by one the interval would be a third as wide.
    (one,) = means(10 * values[:, :1], counts[:, :1], seed=0)
    (alone,) = means(np.repeat(values[:, :1], 10, 0), np.ones((600, 1), np.int64), seed=0)
    assert one is not None
    assert alone is not None
    assert one.interval is not None
    assert alone.interval is not None
    widths = [f[1] - f[0] for f in (one.interval, alone.interval)]
    assert widths[0] / widths[1] == pytest.approx(10**0.5, rel=0.15)


def test_images_with_different_numbers_of_objects_hold_the_mean_too() -> None:
    generator = np.random.default_rng(3)
    counts = generator.integers(0, 5, (IMAGES, DATASETS))
    sums = np.zeros(counts.shape)
    for k in range(1, 5):
        sums += np.where(counts >= k, generator.beta(6, 2, counts.shape), 0)
    assert 0.91 <= covered(sums, counts) <= 0.98


def test_means_and_groups_without_objects() -> None:
    sums = np.array([[1.0, 0.5, 0.0], [0.5, 0.0, 0.0], [3.0, 0.0, 0.0]])
    counts = np.array([[1, 1, 0], [1, 0, 0], [4, 0, 0]])
    first, second, third = means(sums, counts, seed=0)
    assert first is not None
    assert (first.count, first.value) == (6, 0.75)
    assert first.interval is not None
    assert 0.5 <= first.interval[0] < 0.75 < first.interval[1] <= 1.0
    # Objects of one image: nothing to draw from.
    assert second is not None
    assert (second.count, second.value, second.interval) == (1, 0.5, None)
    assert third is None
    assert means(np.zeros((0, 1)), np.zeros((0, 1), np.int64), seed=0) == [None]


def test_the_draws_follow_the_seed_and_not_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).random((30, 2))
    counts = np.ones(values.shape, np.int64)
    whole = means(values, counts, seed=5)
    assert means(values, counts, seed=5) == whole
    assert means(values, counts, seed=6) != whole
    monkeypatch.setattr("effsam_export.evaluate.statistics.CHUNK", 100)
    for one, other in zip(whole, means(values, counts, seed=5), strict=True):
        # Sums of a product of matrices may be in another order.
        assert one is not None
        assert other is not None
        assert one.interval == pytest.approx(other.interval, abs=1e-12)
