"""From FastSAM's raw detections to instances, and prompts that choose among them. No torch.

Sources of the rules: CASIA-IVA-Lab/FastSAM (b4ed20c), `fastsam/{predict,prompt,utils}.py`, and
`process_mask_native` of its bundled ultralytics. Where the authors fail, this goes on: several
boxes keep their order and number, no argument is changed, and two boxes over the whole picture do
not end the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from effsam_export.imaging.images import resize_bilinear
from effsam_export.imaging.nms import nms

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from effsam_export.imaging.letterbox import Letterbox
    from effsam_export.spec.prompts import Prompt
    from effsam_export.spec.tensors import Feeds, Float32

CONFIDENCE = 0.4
NMS_IOU = 0.9
"""Both as the authors' README runs it; their predictor's own defaults are 0.25 and 0.7."""

MAX_INSTANCES = 300
BORDER_PX = 20
WHOLE_IOU = 0.9


@dataclass(frozen=True, kw_only=True)
class Instances:
    """What was found on one photograph, by falling score.

    Attributes:
        letterbox: Where the photograph lies in the graph's square.
        boxes: Kx4 float32 (x0, y0, x1, y1) in pixels of the original image.
        scores: K float32.
        coefficients: Kx32 float32.
        prototypes: 32xHxW float32.
    """

    letterbox: Letterbox
    boxes: Float32
    scores: Float32
    coefficients: Float32
    prototypes: Float32

    def __len__(self) -> int:
        return len(self.scores)

    def mask(self, index: int) -> NDArray[np.bool_]:
        """One instance's mask at original size, HxW. One at a time: 300 of a large photograph
        would fill the memory.
        """
        mh, mw = self.prototypes.shape[1:]
        h, w = self.letterbox.original
        logits = np.tensordot(self.coefficients[index], self.prototypes, axes=1)
        scale = min(mh / h, mw / w)
        pad_y, pad_x = (mh - h * scale) / 2, (mw - w * scale) / 2
        inner = logits[int(pad_y) : int(mh - pad_y), int(pad_x) : int(mw - pad_x)]
        full = resize_bilinear(np.ascontiguousarray(inner[None], dtype=np.float32), (h, w))[0]
        x0, y0, x1, y1 = self.boxes[index]
        columns, rows = np.arange(w), np.arange(h)
        inside = ((rows >= y0) & (rows < y1))[:, None] & ((columns >= x0) & (columns < x1))
        return np.asarray((full > 0) & inside)

    def masks(self) -> Iterator[NDArray[np.bool_]]:
        """All masks, one after the other."""
        return (self.mask(i) for i in range(len(self)))


def detect(outputs: Feeds, letterbox: Letterbox) -> Instances:
    """Choose instances from a segmenter's outputs.

    Args:
        outputs: `boxes` 1xNx4 in pixels of the letterbox, `scores` 1xN, `mask_coefficients`
            1xNx32, `prototypes` 1x32xHxW.
        letterbox: Of the photograph.
    """
    scores = np.asarray(outputs["scores"][0], dtype=np.float32)
    likely = np.flatnonzero(scores > CONFIDENCE)
    boxes = np.asarray(outputs["boxes"][0][likely], dtype=np.float32)
    kept = nms(boxes, scores[likely], NMS_IOU)[:MAX_INSTANCES]
    boxes = snapped(boxes[kept], letterbox.framed)
    chosen = likely[kept]
    return Instances(
        letterbox=letterbox,
        boxes=to_original(boxes, letterbox),
        scores=scores[chosen],
        coefficients=np.asarray(outputs["mask_coefficients"][0][chosen], dtype=np.float32),
        prototypes=np.asarray(outputs["prototypes"][0], dtype=np.float32),
    )


def snapped(boxes: Float32, frame: tuple[float, float, float, float]) -> Float32:
    """Boxes with sides within 20 px of the frame on it; one that nearly fills it, the frame."""
    x0, y0, x1, y1 = (np.float32(v) for v in frame)
    out = boxes.copy()
    out[:, 0] = np.where(out[:, 0] < x0 + BORDER_PX, x0, out[:, 0])
    out[:, 1] = np.where(out[:, 1] < y0 + BORDER_PX, y0, out[:, 1])
    out[:, 2] = np.where(out[:, 2] > x1 - BORDER_PX, x1, out[:, 2])
    out[:, 3] = np.where(out[:, 3] > y1 - BORDER_PX, y1, out[:, 3])
    areas = (out[:, 2] - out[:, 0]) * (out[:, 3] - out[:, 1])
    low, high = np.maximum(out[:, :2], [x0, y0]), np.minimum(out[:, 2:], [x1, y1])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    whole = (x1 - x0) * (y1 - y0)
    out[shared / (whole + areas - shared) > WHOLE_IOU] = (x0, y0, x1, y1)
    return np.asarray(out)


def to_original(boxes: Float32, letterbox: Letterbox) -> Float32:
    """Boxes from letterbox pixels to pixels of the original image, clipped to it."""
    h, w = letterbox.original
    # From the unrounded size, so up to a pixel beside where the photograph lies: the authors'
    # `scale_boxes`.
    pad_x = round((letterbox.size[1] - w * letterbox.scale) / 2 - 0.1)
    pad_y = round((letterbox.size[0] - h * letterbox.scale) / 2 - 0.1)
    moved = (boxes - np.asarray([pad_x, pad_y, pad_x, pad_y], dtype=np.float32)) / np.float32(
        letterbox.scale
    )
    limits = np.asarray([w, h, w, h], dtype=np.float32)
    return np.asarray(np.clip(moved, 0, limits), dtype=np.float32)


def by_points(
    instances: Instances, points: Sequence[tuple[float, float, int]]
) -> NDArray[np.bool_]:
    """The mask of a point prompt at original size, HxW.

    From the largest instance to the smallest: one that holds a foreground point is painted, one
    that holds a background point is erased, point by point in their order.
    """
    answer = np.zeros(instances.letterbox.original, dtype=np.bool_)
    areas = [int(m.sum()) for m in instances.masks()]
    for index in sorted(range(len(instances)), key=lambda i: -areas[i]):
        mask = instances.mask(index)
        for x, y, label in points:
            if mask[int(y), int(x)]:
                answer[mask] = label == 1
    return answer


def by_box(instances: Instances, box: tuple[float, float, float, float]) -> int | None:
    """Index of the instance whose mask has the greatest IoU with a box; None if none was found."""
    h, w = instances.letterbox.original
    x0, y0 = max(round(box[0]), 0), max(round(box[1]), 0)
    x1, y1 = min(round(box[2]), w), min(round(box[3]), h)
    area = (x1 - x0) * (y1 - y0)
    overlaps = []
    for mask in instances.masks():
        shared = int(mask[y0:y1, x0:x1].sum())
        union = area + int(mask.sum()) - shared
        overlaps.append(shared / union if union else 0.0)
    return int(np.argmax(overlaps)) if overlaps else None


def answer(instances: Instances, prompt: Prompt) -> tuple[NDArray[np.bool_], float]:
    """The mask of one prompt at original size, and its score.

    The score of a point prompt is the greatest of the instances its mask is made of; of a prompt
    for which nothing was found, 0.
    """
    if prompt.box is not None:
        index = by_box(instances, prompt.box)
        if index is None:
            return np.zeros(instances.letterbox.original, dtype=np.bool_), 0.0
        return instances.mask(index), float(instances.scores[index])
    points = [(p.x, p.y, p.label) for p in prompt.points]
    mask = by_points(instances, points)
    held = [
        float(instances.scores[i])
        for i, m in enumerate(instances.masks())
        if any(label == 1 and m[int(y), int(x)] for x, y, label in points)
    ]
    return mask, max(held, default=0.0)
