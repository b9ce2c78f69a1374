"""Metrics of the difference between tensors and between masks, in numpy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from effsam_export.parity.results import TensorDiff

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from effsam_export.spec.tensors import Array

BOUNDARY_RATIO = 0.02
"""Width of the boundary band as a share of the image diagonal (boundary-iou-api's default)."""


def tensor_diff(name: str, reference: Array, actual: Array) -> TensorDiff:
    """Return the difference of two tensors of equal shape, computed in float64."""
    a = np.asarray(reference, dtype=np.float64).ravel()
    b = np.asarray(actual, dtype=np.float64).ravel()
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        nan = math.nan
        return TensorDiff(name=name, max_abs=nan, rms=nan, cosine=nan, sqnr_db=nan, finite=False)
    difference = a - b
    rms = float(np.sqrt(np.mean(difference**2)))
    signal = float(np.sqrt(np.mean(a**2)))
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    # The cosine of two zero tensors is 1, that of one zero tensor is 0.
    cosine = float(a @ b) / norms if norms else float(rms == 0.0)
    sqnr = math.inf
    if rms:
        sqnr = 20 * math.log10(signal / rms) if signal else -math.inf
    return TensorDiff(
        name=name,
        max_abs=float(np.abs(difference).max()),
        rms=rms,
        cosine=cosine,
        sqnr_db=sqnr,
        finite=True,
    )


def mask_iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Return the intersection over union of two HxW masks; 1 if both are empty."""
    union = int(np.count_nonzero(a | b))
    return int(np.count_nonzero(a & b)) / union if union else 1.0


def boundary_iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Return the IoU of the bands inside two masks' outlines (Cheng et al., CVPR 2021)."""
    # Most masks of an FP32 export are equal, and a band takes ten times as long as this.
    return 1.0 if np.array_equal(a, b) else mask_iou(boundary(a), boundary(b))


def boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a mask within 2 % of the image diagonal of its outline.

    This is the mask minus its erosion by a square of side 2d + 1. Pixels outside the image count as
    background, so a mask has an outline at the image border. Source: `mask_to_boundary` in
    boundary-iou-api.
    """
    d = max(1, round(BOUNDARY_RATIO * math.hypot(*mask.shape)))
    eroded = mask
    for axis in (0, 1):
        eroded = _all_within(eroded, d, axis)
    return mask & ~eroded


def _all_within(mask: NDArray[np.bool_], d: int, axis: int) -> NDArray[np.bool_]:
    """Return where all 2d + 1 pixels around a pixel along `axis` are in the mask."""
    width = [(0, 0), (0, 0)]
    width[axis] = (d + 1, d)
    sums = np.cumsum(np.pad(mask, width), axis=axis, dtype=np.int64)
    n = mask.shape[axis]
    ahead = np.take(sums, np.arange(2 * d + 1, n + 2 * d + 1), axis=axis)
    behind = np.take(sums, np.arange(n), axis=axis)
    inside: NDArray[np.bool_] = ahead - behind == 2 * d + 1
    return inside
