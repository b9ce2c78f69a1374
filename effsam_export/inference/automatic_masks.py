"""Automatic mask generation: masks of a whole image from a grid of point prompts.

Source: segment-anything (dca509f), `automatic_mask_generator.py` and `utils/amg.py`, with the same
defaults; EdgeSAM, RepViT-SAM and MobileSAM use the same code. Image crops and the removal of small
regions are not implemented; both are off by default there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from effsam_export.imaging import rle
from effsam_export.imaging.images import STABILITY_OFFSET, stability, upscale_masks
from effsam_export.imaging.nms import nms
from effsam_export.inference.runner import decoder_feeds
from effsam_export.spec.prompts import Point, Prompt
from effsam_export.util.signals import interruptible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from effsam_export.backends import Session
    from effsam_export.imaging.instances import Instances
    from effsam_export.inference.runner import Embedded
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.tensors import Feeds
    from effsam_export.util.progress import OnProgress


@dataclass(frozen=True, kw_only=True)
class GridSettings:
    """The grid of prompts and the thresholds of the filters.

    Attributes:
        points_per_side: Number of points along each side of the image, at the centres of equal
            cells.
        points_per_batch: Number of prompts in one decoder call.
        score: Masks with a score at or below this are removed. The score is the predicted IoU, or
            the output by which the model ranks masks.
        stability: Masks with a lower stability are removed. Stability is the IoU of the mask cut
            at threshold + offset with the mask cut at threshold - offset, at original size.
        stability_offset: This offset, in logits.
        box_nms: IoU of bounding boxes above which only the mask with the best score remains.
    """

    points_per_side: int = 32
    points_per_batch: int = 64
    score: float = 0.88
    stability: float = 0.95
    stability_offset: float = STABILITY_OFFSET
    box_nms: float = 0.7


@dataclass(frozen=True, kw_only=True)
class MaskRecord:
    """One generated mask.

    Attributes:
        mask: Run-length encoded, at original size, to limit the memory of hundreds of masks.
        score: Score by which the model ranks masks.
        stability: Stability score from 0 to 1; None for a model that segments instances.
        box: (x0, y0, x1, y1) of its first and last pixels in the original image, inclusive.
        area: Number of pixels.
        point: (x, y) of its prompt in the original image; None for a model without point prompts
            in this mode.
    """

    mask: dict[str, list[int]]
    score: float
    stability: float | None
    box: tuple[int, int, int, int]
    area: int
    point: tuple[float, float] | None

    def decoded(self) -> NDArray[np.bool_]:
        """Return the mask as bool HxW."""
        return rle.decode(self.mask)


def grid(size: tuple[int, int], per_side: int) -> list[tuple[float, float]]:
    """Return the points (x, y) at the centres of per_side x per_side cells of an image, by rows."""
    h, w = size
    centres = (np.arange(per_side) + 0.5) / per_side
    return [(float(x * w), float(y * h)) for y in centres for x in centres]


def generate(
    model: ModelSpec,
    decoder: Session,
    embedded: Embedded,
    settings: GridSettings,
    on_progress: OnProgress | None = None,
) -> tuple[MaskRecord, ...]:
    """Return all masks that pass the filters, by descending score.

    Args:
        model: The model to which the decoder belongs.
        decoder: Session of the decoder.
        embedded: The encoded image.
        settings: Grid and filters.
        on_progress: Called with (finished points, all points).
    """
    points = grid(embedded.frame.original, settings.points_per_side)
    records: list[MaskRecord] = []
    # A decoder with fixed shapes takes one prompt per call.
    dynamic = any("prompts" in t.shape for t in model.component("decoder").inputs)
    size = settings.points_per_batch if dynamic else 1
    for start in range(0, len(points), size):
        batch = points[start : start + size]
        outputs = interruptible(partial(decoder.run, batch_feeds(model, embedded, batch)))
        records += _filtered(model, embedded, batch, model.masks.of(outputs), settings)
        if on_progress is not None:
            on_progress(start + len(batch), len(points))
    return without_duplicates(records, settings.box_nms)


def batch_feeds(
    model: ModelSpec, embedded: Embedded, points: Sequence[tuple[float, float]]
) -> Feeds:
    """Return decoder inputs for one foreground point per prompt, stacked along the prompt axis."""
    return stacked(
        model,
        [decoder_feeds(model, embedded, Prompt(points=(Point(x=x, y=y),))) for x, y in points],
    )


def stacked(model: ModelSpec, feeds: Sequence[Feeds]) -> Feeds:
    """Return decoder inputs of prompts with the same number of points as one call's."""
    axes = {
        t.name: t.shape.index("prompts")
        for t in model.component("decoder").inputs
        if "prompts" in t.shape
    }
    return {
        name: np.concatenate([f[name] for f in feeds], axes[name]) if name in axes else value
        for name, value in feeds[0].items()
    }


def _filtered(
    model: ModelSpec,
    embedded: Embedded,
    points: Sequence[tuple[float, float]],
    outputs: Feeds,
    settings: GridSettings,
) -> Iterator[MaskRecord]:
    """Yield the masks of a batch that pass the score and stability filters."""
    masks = model.masks
    for i, point in enumerate(points):
        for k in masks.multimask:
            score = float(outputs[masks.score][i, k])
            if not score > settings.score:
                continue
            low_res = np.ascontiguousarray(outputs["low_res_masks"][i, k : k + 1], np.float32)
            logits = upscale_masks(low_res, embedded.frame, masks)[0]
            mask_stability = stability(logits, masks.threshold, settings.stability_offset)
            if mask_stability < settings.stability:
                continue
            yield from _records(logits > masks.threshold, score, mask_stability, point)


def _records(
    mask: NDArray[np.bool_],
    score: float,
    stability: float | None,
    point: tuple[float, float] | None,
) -> Iterator[MaskRecord]:
    """Yield the record of one mask, or nothing if the mask is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size:
        yield MaskRecord(
            mask=rle.encode(mask),
            score=score,
            stability=stability,
            box=(int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])),
            area=int(mask.sum()),
            point=point,
        )


def without_duplicates(records: Sequence[MaskRecord], iou: float) -> tuple[MaskRecord, ...]:
    """Return the masks that remain after NMS of their boxes, by descending score."""
    if not records:
        return ()
    boxes = np.asarray([f.box for f in records], dtype=np.float32)
    scores = np.asarray([f.score for f in records], dtype=np.float32)
    return tuple(records[i] for i in nms(boxes, scores, iou))


def from_instances(instances: Instances) -> tuple[MaskRecord, ...]:
    """Return the masks of detected instances as records."""
    return tuple(
        record
        for i, mask in enumerate(instances.masks())
        for record in _records(mask, float(instances.scores[i]), None, None)
    )
