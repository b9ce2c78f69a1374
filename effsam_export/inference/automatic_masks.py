"""Automatic mask generation: masks of a whole image from a grid of point prompts.

Source: segment-anything (dca509f), `automatic_mask_generator.py` and `utils/amg.py`, with the same
defaults; EdgeSAM, RepViT-SAM and MobileSAM use the same code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from effsam_export.imaging import regions, rle
from effsam_export.imaging.images import STABILITY_OFFSET
from effsam_export.imaging.instances import NMS_IOU
from effsam_export.imaging.nms import nms
from effsam_export.inference.crops import crops
from effsam_export.inference.mask_filter import MaskFilter, candidates, threads
from effsam_export.inference.mask_records import record_of
from effsam_export.inference.runner import decoder_feeds
from effsam_export.spec.prompts import Point, Prompt
from effsam_export.util.signals import interruptible

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from effsam_export.backends import Session
    from effsam_export.imaging.instances import Instances
    from effsam_export.inference.mask_records import MaskRecord
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
        crop_layers: Number of layers of crops that are searched beside the whole image. Layer n
            has 2**n crops along each side.
        crop_overlap: Overlap of neighbouring crops of the first layer, as a share of the image's
            shorter side.
        crop_nms: As `box_nms`, for masks of different crops; the one of the smaller crop remains.
        crop_downscale: In layer n, `points_per_side` is divided by this number to the power of n.
        min_region_area: Holes and islands of a mask with fewer pixels are removed; 0: none.
    """

    points_per_side: int = 32
    points_per_batch: int = 64
    score: float = 0.88
    stability: float = 0.95
    stability_offset: float = STABILITY_OFFSET
    box_nms: float = 0.7
    crop_layers: int = 0
    crop_overlap: float = 512 / 1500
    crop_nms: float = 0.7
    crop_downscale: int = 1
    min_region_area: int = 0


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
    embed: Callable[[NDArray[np.uint8]], Embedded] | None = None,
) -> tuple[MaskRecord, ...]:
    """Return all masks that pass the filters, by descending score.

    Args:
        model: The model to which the decoder belongs.
        decoder: Session of the decoder.
        embedded: The encoded image.
        settings: Grid and filters.
        on_progress: Called with (finished points, all points).
        embed: Encodes a crop; needed for `crop_layers`.
    """
    size = embedded.frame.original
    parts = crops(size, settings.crop_layers, settings.crop_overlap)
    grids = [
        grid(part.size, max(1, settings.points_per_side // settings.crop_downscale**part.layer))
        for part in parts
    ]
    total = sum(map(len, grids))
    records: list[MaskRecord] = []
    # A decoder with fixed shapes takes one prompt per call.
    dynamic = any("prompts" in t.shape for t in model.component("decoder").inputs)
    step = settings.points_per_batch if dynamic else 1
    done = 0
    with threads() as pool:
        for part, points in zip(parts, grids, strict=True):
            encoded = embedded
            if part.layer:
                assert embed is not None, "crops need the encoder"
                x0, y0, x1, y1 = part.box
                pixels = np.ascontiguousarray(embedded.sample.image[y0:y1, x0:x1])
                encoded = interruptible(partial(embed, pixels))
            of_part = MaskFilter(
                model.masks,
                encoded.frame,
                least=settings.stability,
                offset=settings.stability_offset,
                crop=part,
                size=size,
            )
            found: list[MaskRecord] = []
            for start in range(0, len(points), step):
                batch = points[start : start + step]
                outputs = interruptible(partial(decoder.run, batch_feeds(model, encoded, batch)))
                outputs = model.masks.of(outputs)
                # Those of the batch before, filtered while the decoder ran.
                found += pool.finish()
                pool.start(of_part, candidates(model.masks, outputs, batch, settings.score))
                done += len(batch)
                if on_progress is not None:
                    on_progress(done, total)
            found += pool.finish()
            records += without_duplicates(found, settings.box_nms)
    if len(parts) > 1:
        records = _of_smaller_crops(records, settings.crop_nms)
    if settings.min_region_area:
        records = without_small_regions(records, settings.min_region_area, NMS_IOU)
    return tuple(sorted(records, key=lambda record: -record.score))


def _of_smaller_crops(records: Sequence[MaskRecord], iou: float) -> list[MaskRecord]:
    """Return the masks that remain where those of smaller crops count more."""
    if not records:
        return []
    boxes = np.asarray([r.box for r in records], dtype=np.float32)
    sides = [(r.crop[2] - r.crop[0], r.crop[3] - r.crop[1]) for r in records]
    scores = np.asarray([1 / (w * h) for w, h in sides], dtype=np.float32)
    return [records[i] for i in nms(boxes, scores, iou)]


def without_small_regions(records: Sequence[MaskRecord], area: int, iou: float) -> list[MaskRecord]:
    """Return masks without small holes and islands.

    Masks that become alike are removed by NMS of their boxes, in which an unchanged mask counts
    more than a changed one.

    Args:
        records: The masks.
        area: Holes and islands with fewer pixels are removed.
        iou: IoU of boxes above which one of two masks is removed.
    """
    cleaned: list[MaskRecord] = []
    scores: list[float] = []
    for record in records:
        mask, filled = regions.without_small_holes(record.decoded(), area)
        mask, removed = regions.without_small_islands(mask, area)
        box = regions.bounding_box(mask)
        assert box is not None, "the largest island stays"
        changed = filled or removed
        scores.append(0.0 if changed else 1.0)
        cleaned.append(
            replace(record, mask=rle.encode(mask), box=box, area=int(mask.sum()))
            if changed
            else record
        )
    if not cleaned:
        return []
    boxes = np.asarray([r.box for r in cleaned], dtype=np.float32)
    return [cleaned[i] for i in nms(boxes, np.asarray(scores, dtype=np.float32), iou)]


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


def without_duplicates(records: Sequence[MaskRecord], iou: float) -> tuple[MaskRecord, ...]:
    """Return the masks that remain after NMS of their boxes, by descending score."""
    if not records:
        return ()
    boxes = np.asarray([f.box for f in records], dtype=np.float32)
    scores = np.asarray([f.score for f in records], dtype=np.float32)
    return tuple(records[i] for i in nms(boxes, scores, iou))


def from_instances(
    instances: Instances, settings: GridSettings | None = None
) -> tuple[MaskRecord, ...]:
    """Return the masks of detected instances as records.

    Of the settings, only `min_region_area` applies: the model detects without a grid.
    """
    records = []
    for mask, score in zip(instances.masks(), instances.scores, strict=True):
        size = (mask.shape[0], mask.shape[1])
        record = record_of(
            mask,
            (0, 0),
            size,
            score=float(score),
            stability=None,
            point=None,
            crop=(0, 0, size[1], size[0]),
        )
        records += [] if record is None else [record]
    if settings is not None and settings.min_region_area:
        most = max(settings.box_nms, settings.crop_nms)
        records = without_small_regions(records, settings.min_region_area, most)
    return tuple(sorted(records, key=lambda record: -record.score))


def as_dictionary(record: MaskRecord) -> dict[str, Any]:
    """Return a generated mask as segment-anything's mask generator does."""
    x0, y0, x1, y1 = record.box
    left, top, right, bottom = record.crop
    return {
        "segmentation": record.decoded(),
        "area": record.area,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "predicted_iou": record.score,
        "stability_score": record.stability,
        "point_coords": None if record.point is None else [list(record.point)],
        "crop_box": [left, top, right - left, bottom - top],
    }
