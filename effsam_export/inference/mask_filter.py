"""Filter the masks of a grid of prompts, in threads beside the decoder.

Scores are compared before anything is resized, and only the part of a mask that can be set is
resized. The masks are those of resizing every one of them in full.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from effsam_export.imaging.images import stability
from effsam_export.imaging.mask_parts import PartUpscaler
from effsam_export.inference.crops import is_cut
from effsam_export.inference.mask_records import record_of
from effsam_export.util import machine
from effsam_export.util.signals import interruptible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from effsam_export.imaging.images import Frame
    from effsam_export.inference.crops import Crop
    from effsam_export.inference.mask_records import MaskRecord
    from effsam_export.spec.prompts import MaskSet
    from effsam_export.spec.tensors import Feeds, Float32

MAX_THREADS = 4
"""More would wait for memory, and for the decoder, which uses all cores."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A mask whose score passed.

    Attributes:
        low_res: Logits float32 HxW.
        score: Score by which the model ranks masks.
        point: (x, y) of its prompt in the crop.
    """

    low_res: Float32
    score: float
    point: tuple[float, float]


def candidates(
    masks: MaskSet, outputs: Feeds, points: Sequence[tuple[float, float]], score: float
) -> Iterator[Candidate]:
    """Yield the multimask outputs of a batch of prompts with a score above `score`."""
    scores = outputs[masks.score]
    for i, point in enumerate(points):
        for k in masks.multimask:
            if float(scores[i, k]) > score:
                low_res = np.ascontiguousarray(outputs["low_res_masks"][i, k], dtype=np.float32)
                yield Candidate(low_res=low_res, score=float(scores[i, k]), point=point)


class MaskFilter:
    """Makes records of the masks of one crop that are stable and not cut by the crop's edge.

    Args:
        masks: The model's rule for upscaling, and its threshold.
        frame: Sizes of the crop.
        least: Masks with a lower stability are removed.
        offset: Offset of the stability, in logits.
        crop: The crop.
        size: (height, width) of the whole image.
    """

    def __init__(
        self,
        masks: MaskSet,
        frame: Frame,
        *,
        least: float,
        offset: float,
        crop: Crop,
        size: tuple[int, int],
    ) -> None:
        self._upscaler = PartUpscaler(frame, masks)
        self._threshold = masks.threshold
        self._least, self._offset = least, offset
        self._crop, self._size = crop, size

    def record(self, candidate: Candidate) -> MaskRecord | None:
        """Return the record of a mask, or None if it does not pass."""
        # Pixels at or below this are neither in the mask nor counted by its stability.
        part = self._upscaler.upscale(candidate.low_res, self._threshold - abs(self._offset))
        if part is None:
            return None
        mask_stability = stability(part.logits, self._threshold, self._offset)
        if mask_stability < self._least:
            return None
        left, top = self._crop.box[:2]
        record = record_of(
            part.logits > self._threshold,
            (left + part.origin[0], top + part.origin[1]),
            self._size,
            score=candidate.score,
            stability=mask_stability,
            point=(candidate.point[0] + left, candidate.point[1] + top),
            crop=self._crop.box,
        )
        if record is None or is_cut(record.box, self._crop, self._size):
            return None
        return record


class Threads:
    """Filters the masks of one batch in threads, while the decoder computes the next."""

    def __init__(self) -> None:
        count = min(MAX_THREADS, machine.usable_cores())
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="effsam-masks")
        self._running: list[Future[MaskRecord | None]] = []

    def start(self, of_crop: MaskFilter, given: Iterable[Candidate]) -> None:
        """Start to filter the candidates of a batch."""
        self._running += [self._pool.submit(of_crop.record, candidate) for candidate in given]

    def finish(self) -> list[MaskRecord]:
        """Wait for what was started, and return the records in the order of the candidates."""
        running, self._running = self._running, []
        found = interruptible(lambda: [future.result() for future in running])
        return [record for record in found if record is not None]

    def stop(self) -> None:
        """Drop what is not finished."""
        self._pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def threads() -> Iterator[Threads]:
    """Open threads for a block."""
    opened = Threads()
    try:
        yield opened
    finally:
        opened.stop()
