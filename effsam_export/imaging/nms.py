"""Greedy non-maximum suppression of boxes, by falling score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from effsam_export.spec.tensors import Float32


def nms(boxes: Float32, scores: Float32, iou: float) -> NDArray[np.int64]:
    """Indices of the boxes that stay, by falling score.

    A box goes if its IoU with one that stays is greater than `iou`, as in torchvision's `nms`.
    Boxes are Nx4 (x0, y0, x1, y1); among equal scores the earlier one wins.
    """
    order = np.argsort(-scores, kind="stable")
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while order.size:
        best, others = order[0], order[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[others, :2])
        high = np.minimum(boxes[best, 2:], boxes[others, 2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=1)
        union = areas[best] + areas[others] - shared
        # Two boxes without area share nothing.
        overlap = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
        order = others[overlap <= iou]
    return np.asarray(kept, dtype=np.int64)
