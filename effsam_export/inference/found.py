"""The masks of one image as they are printed, drawn and written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from effsam_export.imaging import rle
from effsam_export.imaging.regions import bounding_box

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from effsam_export.inference.mask_records import MaskRecord
    from effsam_export.inference.runner import Prediction
    from effsam_export.spec.tensors import Float32

Box = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class FoundMask:
    """One mask of an image.

    Attributes:
        prompt: Number of its prompt in the image, from 1; None for a mask that was generated
            without a prompt.
        index: Position of the mask in the decoder's output; None without a prompt.
        mask: Run-length encoded, at original size: hundreds of masks would exceed the memory.
        score: Score by which the model ranks masks.
        stability: Stability from 0 to 1; None where it is not computed.
        box: (x0, y0, x1, y1) of its first and last pixels, inclusive; None for an empty mask.
        area: Number of pixels.
        point: (x, y) of the grid's point that it was found with, or None.
        logits: SxS float32, or None.
    """

    prompt: int | None
    index: int | None
    mask: dict[str, list[int]]
    score: float
    stability: float | None = None
    box: Box | None
    area: int
    point: tuple[float, float] | None = None
    logits: Float32 | None = None

    def decoded(self) -> NDArray[np.bool_]:
        """Return the mask as bool HxW."""
        return rle.decode(self.mask)


def of_prediction(prediction: Prediction, prompt: int) -> tuple[FoundMask, ...]:
    """Return the masks of one prompt, in the order of the prediction."""
    logits = prediction.low_res_masks
    return tuple(
        FoundMask(
            prompt=prompt,
            index=prediction.indices[i],
            mask=rle.encode(mask),
            score=float(prediction.scores[i]),
            box=bounding_box(mask),
            area=int(mask.sum()),
            logits=None if logits is None else logits[i],
        )
        for i, mask in enumerate(prediction.masks)
    )


def of_record(record: MaskRecord) -> FoundMask:
    """Return a generated mask."""
    return FoundMask(
        prompt=None,
        index=None,
        mask=record.mask,
        score=record.score,
        stability=record.stability,
        box=record.box,
        area=record.area,
        point=record.point,
    )
