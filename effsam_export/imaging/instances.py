"""FastSAM's post-processing: raw detections to instances, and prompts to masks. No torch.

Sources: CASIA-IVA-Lab/FastSAM (b4ed20c), `fastsam/{predict,prompt,utils}.py`, and
`process_mask_native` of its bundled ultralytics. Differences from the authors' code: several boxes
keep their order and number, no argument is modified, and two boxes over the whole image do not
raise an error.
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
"""Both as in the command in the authors' README; their predictor's defaults are 0.25 and 0.7."""

MAX_INSTANCES = 300
BORDER_PX = 20
WHOLE_IOU = 0.9


@dataclass(frozen=True, kw_only=True)
class Instances:
    """The K instances detected in one image, by descending score.

    Attributes:
        letterbox: Position of the image in the graph's square input.
        boxes: Kx4 float32 (x0, y0, x1, y1) in pixels of the original image.
        scores: K float32.
        coefficients: Kx32 float32, the weights of the prototypes in each mask.
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
        """Return the mask of one instance, bool HxW at original size."""
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
        """Yield the masks one at a time; all masks of a large image may exceed the memory."""
        return (self.mask(i) for i in range(len(self)))


def detect(outputs: Feeds, letterbox: Letterbox) -> Instances:
    """Return the instances in a segmenter's outputs, after score threshold and NMS.

    Args:
        outputs: `boxes` 1xNx4 in pixels of the letterbox, `scores` 1xN, `mask_coefficients`
            1xNx32, `prototypes` 1x32xHxW.
        letterbox: Position of the image in the letterbox.
    """
    scores = np.asarray(outputs["scores"][0], dtype=np.float32)
    candidates = np.flatnonzero(scores > CONFIDENCE)
    boxes = np.asarray(outputs["boxes"][0][candidates], dtype=np.float32)
    remaining = nms(boxes, scores[candidates], NMS_IOU)[:MAX_INSTANCES]
    boxes = snap_to_border(boxes[remaining], letterbox.framed)
    selected = candidates[remaining]
    return Instances(
        letterbox=letterbox,
        boxes=to_original(boxes, letterbox),
        scores=scores[selected],
        coefficients=np.asarray(outputs["mask_coefficients"][0][selected], dtype=np.float32),
        prototypes=np.asarray(outputs["prototypes"][0], dtype=np.float32),
    )


def snap_to_border(boxes: Float32, frame: tuple[float, float, float, float]) -> Float32:
    """Move box sides near the frame onto it, and replace a box that nearly fills the frame."""
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
    """Convert boxes from letterbox pixels to original-image pixels, clipped to the image."""
    h, w = letterbox.original
    # From the unrounded size, as in the authors' `scale_boxes`: up to a pixel off the padding.
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
    """Return the mask of a point prompt, bool HxW at original size.

    Instances are visited from the largest to the smallest. Each one that contains a foreground
    point is added to the mask; each one that contains a background point is removed from it.

    Args:
        instances: The detected instances.
        points: (x, y, label) in pixels of the original image.
    """
    selection = np.zeros(instances.letterbox.original, dtype=np.bool_)
    areas = [int(m.sum()) for m in instances.masks()]
    for index in sorted(range(len(instances)), key=lambda i: -areas[i]):
        mask = instances.mask(index)
        for x, y, label in points:
            if mask[int(y), int(x)]:
                selection[mask] = label == 1
    return selection


def by_box(instances: Instances, box: tuple[float, float, float, float]) -> int | None:
    """Return the index of the instance whose mask has the greatest IoU with a box, or None."""
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


def mask_of(instances: Instances, prompt: Prompt) -> tuple[NDArray[np.bool_], float]:
    """Return the mask of one prompt, bool HxW at original size, and its score.

    The score of a box prompt is the score of its instance. The score of a point prompt is the
    greatest score of the instances that contain a foreground point. Without an instance it is 0.
    """
    if prompt.box is not None:
        index = by_box(instances, prompt.box)
        if index is None:
            return np.zeros(instances.letterbox.original, dtype=np.bool_), 0.0
        return instances.mask(index), float(instances.scores[index])
    points = [(p.x, p.y, p.label) for p in prompt.points]
    mask = by_points(instances, points)
    selected = [
        float(instances.scores[i])
        for i, m in enumerate(instances.masks())
        if any(label == 1 and m[int(y), int(x)] for x, y, label in points)
    ]
    return mask, max(selected, default=0.0)
