"""Greedy non-maximum suppression of boxes."""

from __future__ import annotations

import numpy as np
import pytest

from effsam_export.imaging.nms import nms


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.asarray(rows, dtype=np.float32).reshape(-1, 4)


def scores(*values: float) -> np.ndarray:
    return np.asarray(values, dtype=np.float32)


def test_the_best_of_overlapping_boxes_remains() -> None:
    found = nms(boxes((0, 0, 10, 10), (0, 0, 10, 9), (20, 0, 30, 10)), scores(0.5, 0.9, 0.7), 0.5)
    assert found.tolist() == [1, 2]


def test_an_iou_equal_to_the_threshold_remains() -> None:
    pair = boxes((0, 0, 10, 10), (0, 0, 10, 5))
    assert nms(pair, scores(0.9, 0.8), 0.5).tolist() == [0, 1]
    assert nms(pair, scores(0.9, 0.8), 0.49).tolist() == [0]


def test_a_suppressed_box_suppresses_nothing() -> None:
    chain = boxes((0, 0, 10, 10), (4, 0, 14, 10), (8, 0, 18, 10))
    assert nms(chain, scores(0.9, 0.8, 0.7), 0.4).tolist() == [0, 2]


def test_equal_scores_keep_their_order() -> None:
    assert nms(boxes((0, 0, 9, 9), (0, 0, 9, 9)), scores(0.5, 0.5), 0.5).tolist() == [0]


def test_no_boxes() -> None:
    assert nms(boxes(), scores(), 0.5).tolist() == []


def test_boxes_without_area_suppress_nothing() -> None:
    assert nms(boxes((1, 1, 1, 1), (1, 1, 1, 1)), scores(0.9, 0.8), 0.5).tolist() == [0, 1]


@pytest.mark.parametrize("limit", [0.3, 0.5, 0.7, 0.9])
def test_against_the_definition(limit: float) -> None:
    rng = np.random.default_rng(4)
    low = rng.uniform(0, 60, (80, 2))
    given = np.concatenate([low, low + rng.uniform(5, 40, (80, 2))], axis=1).astype(np.float32)
    value = rng.permutation(80).astype(np.float32)
    kept: list[int] = []
    for i in np.argsort(-value):
        if all(overlap(given[i], given[j]) <= limit for j in kept):
            kept.append(int(i))
    assert nms(given, value, limit).tolist() == kept


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(w, 0) * max(h, 0)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return float(shared / (area - shared))
