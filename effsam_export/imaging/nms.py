"""Greedy non-maximum suppression of boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from effsam_export.spec.tensors import Float32


def nms(boxes: Float32, scores: Float32, iou: float) -> NDArray[np.int64]:
    """Return the indices of the boxes that remain, by descending score.

    A box is removed if its IoU with a better remaining box is greater than `iou`, as in
    torchvision's `nms`. Among equal scores the earlier box comes first.

    Args:
        boxes: Nx4 (x0, y0, x1, y1).
        scores: N.
        iou: Threshold from 0 to 1.
    """
    order = np.argsort(-scores, kind="stable")
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    remaining = []
    while order.size:
        best, others = order[0], order[1:]
        remaining.append(best)
        low = np.maximum(boxes[best, :2], boxes[others, :2])
        high = np.minimum(boxes[best, 2:], boxes[others, 2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=1)
        union = areas[best] + areas[others] - shared
        # The union of two boxes without area is 0; their IoU counts as 0.
        overlap = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
        order = others[overlap <= iou]
    return np.asarray(remaining, dtype=np.int64)
