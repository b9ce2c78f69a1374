"""All masks of a photograph without a prompt: a grid of points, and the authors' filters.

Source: segment-anything (dca509f), `automatic_mask_generator.py` and `utils/amg.py`, whose
defaults are kept; EdgeSAM's, RepViT-SAM's and MobileSAM's are the same. Without their crops and
without their clean-up of small regions, which are off by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from effsam_export.imaging import rle
from effsam_export.imaging.images import STABILITY_OFFSET, stability, upscale_masks
from effsam_export.imaging.nms import nms
from effsam_export.inference.runner import decoder_feeds
from effsam_export.spec.prompts import Point, Prompt

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
    """How masks are made and which are kept.

    Attributes:
        points_per_side: Points along each side of the photograph, at the centres of equal cells.
        points_per_batch: Prompts for one call of the decoder.
        score: A mask stays if its score (predicted IoU, or what the model ranks by) is greater.
        stability: And if its stability is at least this: the IoU of the masks at logits above
            threshold + offset and above threshold - offset, at original size.
        stability_offset: That offset, in logits.
        box_nms: Of masks whose boxes overlap by a greater IoU, the best stays.
    """

    points_per_side: int = 32
    points_per_batch: int = 64
    score: float = 0.88
    stability: float = 0.95
    stability_offset: float = STABILITY_OFFSET
    box_nms: float = 0.7


@dataclass(frozen=True, kw_only=True)
class MaskRecord:
    """One mask.

    Attributes:
        mask: At original size, as run lengths: hundreds of masks of a large photograph would not
            fit into memory otherwise.
        score: What the model ranks it by.
        stability: None where the model does not know it.
        box: (x0, y0, x1, y1) of its first and last pixels, original image.
        area: Pixels.
        point: (x, y) that it came from in the original image, or None.
    """

    mask: dict[str, list[int]]
    score: float
    stability: float | None
    box: tuple[int, int, int, int]
    area: int
    point: tuple[float, float] | None

    def decoded(self) -> NDArray[np.bool_]:
        """The mask, HxW bool."""
        return rle.decode(self.mask)


def grid(size: tuple[int, int], per_side: int) -> list[tuple[float, float]]:
    """Points (x, y) at the centres of per_side x per_side cells of an image, row by row."""
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
    """All masks that pass the filters, by falling score.

    Args:
        model: Whose contract the decoder keeps.
        decoder: Opened decoder.
        embedded: The photograph.
        settings: Grid and filters.
        on_progress: Called with (points done, points in all).
    """
    points = grid(embedded.frame.original, settings.points_per_side)
    records: list[MaskRecord] = []
    # A decoder of fixed shapes takes one prompt a call.
    dynamic = any("prompts" in t.shape for t in model.component("decoder").inputs)
    size = settings.points_per_batch if dynamic else 1
    for start in range(0, len(points), size):
        batch = points[start : start + size]
        outputs = decoder.run(batch_feeds(model, embedded, batch))
        records += _kept(model, embedded, batch, outputs, settings)
        if on_progress is not None:
            on_progress(start + len(batch), len(points))
    return without_duplicates(records, settings.box_nms)


def batch_feeds(
    model: ModelSpec, embedded: Embedded, points: Sequence[tuple[float, float]]
) -> Feeds:
    """Decoder inputs for one foreground point each, stacked along the prompts."""
    each = [decoder_feeds(model, embedded, Prompt(points=(Point(x=x, y=y),))) for x, y in points]
    shared = {t.name for t in model.component("decoder").inputs if t.shape[0] != "prompts"}
    return {
        name: value if name in shared else np.concatenate([f[name] for f in each])
        for name, value in each[0].items()
    }


def _kept(
    model: ModelSpec,
    embedded: Embedded,
    points: Sequence[tuple[float, float]],
    outputs: Feeds,
    settings: GridSettings,
) -> Iterator[MaskRecord]:
    """The masks of a batch that pass score and stability; resized one at a time."""
    masks = model.masks
    for i, point in enumerate(points):
        for k in masks.multimask:
            score = float(outputs[masks.score][i, k])
            if not score > settings.score:
                continue
            low_res = np.ascontiguousarray(outputs["low_res_masks"][i, k : k + 1], np.float32)
            logits = upscale_masks(low_res, embedded.frame, masks)[0]
            steady = stability(logits, masks.threshold, settings.stability_offset)
            if steady < settings.stability:
                continue
            yield from _found(logits > masks.threshold, score, steady, point)


def _found(
    mask: NDArray[np.bool_],
    score: float,
    stability: float | None,
    point: tuple[float, float] | None,
) -> Iterator[MaskRecord]:
    """The record of one mask; none of an empty one."""
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
    """The masks that box NMS leaves, by falling score."""
    if not records:
        return ()
    boxes = np.asarray([f.box for f in records], dtype=np.float32)
    scores = np.asarray([f.score for f in records], dtype=np.float32)
    return tuple(records[i] for i in nms(boxes, scores, iou))


def from_instances(instances: Instances) -> tuple[MaskRecord, ...]:
    """What a model that finds instances found, as the same records."""
    return tuple(
        record
        for i, mask in enumerate(instances.masks())
        for record in _found(mask, float(instances.scores[i]), None, None)
    )
