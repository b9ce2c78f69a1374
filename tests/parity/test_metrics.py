"""Distances: known values, the corners of the definitions, and a boundary found pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from effsam_export.parity import metrics
from effsam_export.parity.metrics import boundary, boundary_iou, mask_iou, tensor_diff

Mask = NDArray[np.bool_]


def test_equal_tensors() -> None:
    x = np.random.default_rng(0).normal(size=(1, 4, 8)).astype(np.float32)
    diff = tensor_diff("low_res_masks", x, x.copy())
    assert (diff.name, diff.finite) == ("low_res_masks", True)
    assert (diff.max_abs, diff.rms, diff.sqnr_db) == (0.0, 0.0, math.inf)
    assert diff.cosine == pytest.approx(1.0, abs=1e-12)


def test_two_zero_tensors_are_equal() -> None:
    diff = tensor_diff("x", np.zeros(4), np.zeros(4))
    assert (diff.max_abs, diff.rms, diff.cosine, diff.sqnr_db) == (0.0, 0.0, 1.0, math.inf)


def test_one_zero_tensor_shares_no_direction() -> None:
    gone = tensor_diff("x", np.ones(4), np.zeros(4))
    assert (gone.max_abs, gone.rms, gone.cosine, gone.sqnr_db) == (1.0, 1.0, 0.0, 0.0)
    made_up = tensor_diff("x", np.zeros(4), np.ones(4))
    assert (made_up.max_abs, made_up.cosine, made_up.sqnr_db) == (1.0, 0.0, -math.inf)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("both", [False, True])
def test_not_finite_on_either_side_is_nan(value: float, both: bool) -> None:
    fine = np.ones(3, dtype=np.float32)
    broken = np.array([1, value, 1], dtype=np.float32)
    for a, b in ((broken, broken),) if both else ((broken, fine), (fine, broken)):
        diff = tensor_diff("x", a, b)
        assert not diff.finite
        assert all(map(math.isnan, (diff.max_abs, diff.rms, diff.cosine, diff.sqnr_db)))


def test_known_values() -> None:
    # The reference's rms is 5 / sqrt(2), the difference's 0.05 / sqrt(2): a ratio of 100.
    diff = tensor_diff("x", np.array([3.0, 4.0]), np.array([3.03, 4.04]))
    assert diff.max_abs == pytest.approx(0.04)
    assert diff.rms == pytest.approx(0.05 / math.sqrt(2))
    assert diff.sqnr_db == pytest.approx(40.0)
    assert diff.cosine == pytest.approx(1.0)
    turned = tensor_diff("x", np.array([1.0, 0.0]), np.array([1.0, 1.0]))
    assert turned.cosine == pytest.approx(math.sqrt(0.5))
    assert turned.sqnr_db == pytest.approx(0.0)
    assert tensor_diff("x", np.array([[2.0]]), np.array([[-2.0]])).cosine == pytest.approx(-1.0)


def test_half_precision_is_measured_in_double() -> None:
    a = np.full(2048, 60_000, dtype=np.float16)
    diff = tensor_diff("x", a, -a)
    assert diff.finite
    assert diff.max_abs == 2 * float(a[0])
    assert diff.sqnr_db == pytest.approx(-20 * math.log10(2))


def test_unsigned_integers_do_not_wrap_around() -> None:
    low, high = np.array([1], dtype=np.uint8), np.array([3], dtype=np.uint8)
    assert tensor_diff("x", low, high).max_abs == 2.0


def test_mask_iou() -> None:
    a, b = np.zeros((4, 6), dtype=np.bool_), np.zeros((4, 6), dtype=np.bool_)
    assert mask_iou(a, b) == 1.0
    a[:, :3] = True
    assert mask_iou(a, b) == mask_iou(b, a) == 0.0
    assert mask_iou(a, a) == 1.0
    b[:, 2:4] = True
    assert mask_iou(a, b) == mask_iou(b, a) == 4 / 16


def slow_boundary(mask: Mask, d: int) -> Mask:
    """The definition, one pixel at a time: set, with one that is not at most `d` away."""
    h, w = mask.shape
    band = np.zeros_like(mask)
    for y in range(h):
        for x in range(w):
            inside = all(
                0 <= j < h and 0 <= i < w and mask[j, i]
                for j in range(y - d, y + d + 1)
                for i in range(x - d, x + d + 1)
            )
            band[y, x] = mask[y, x] and not inside
    return band


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("ratio", [0.02, 0.15])
def test_boundary_is_its_definition(
    seed: int, ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    h, w = (int(n) for n in rng.integers(1, 24, size=2))
    # Rectangles, so that there are pixels inside for a wide band to leave out; many touch the edge.
    mask = rng.random((h, w)) < 0.02
    for _ in range(3):
        top, left = rng.integers(-6, 18, size=2)
        mask[max(top, 0) : top + 14, max(left, 0) : left + 14] = True
    monkeypatch.setattr(metrics, "BOUNDARY_RATIO", ratio)
    d = max(1, round(ratio * math.hypot(h, w)))
    np.testing.assert_array_equal(boundary(mask), slow_boundary(mask, d))


def test_boundary_of_a_mask_that_runs_off_the_picture() -> None:
    full = np.ones((40, 30), dtype=np.bool_)
    band = np.ones((40, 30), dtype=np.bool_)
    band[1:-1, 1:-1] = False
    np.testing.assert_array_equal(boundary(full), band)  # 2 % of the diagonal of 50 is 1 pixel
    half = full.copy()
    half[:, 15:] = False
    np.testing.assert_array_equal(boundary(half), slow_boundary(half, 1))


def test_boundary_iou() -> None:
    none, full = np.zeros((40, 30), dtype=np.bool_), np.ones((40, 30), dtype=np.bool_)
    assert boundary_iou(none, none) == boundary_iou(full, full) == 1.0
    assert boundary_iou(none, full) == 0.0
    holed = full.copy()
    holed[20, 15] = False
    # The hole's edge is a band of 8 pixels beside the 136 of the frame.
    assert boundary_iou(full, holed) == 136 / 144
    assert mask_iou(full, holed) == 1199 / 1200
