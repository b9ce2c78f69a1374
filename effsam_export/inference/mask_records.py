"""One generated mask, and how it is made of the part of an image that it lies in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from effsam_export.imaging import regions, rle

if TYPE_CHECKING:
    from numpy.typing import NDArray

Box = tuple[int, int, int, int]


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
        crop: (x0, y0, x1, y1) of the part of the image in which it was found.
    """

    mask: dict[str, list[int]]
    score: float
    stability: float | None
    box: Box
    area: int
    point: tuple[float, float] | None
    crop: Box

    def decoded(self) -> NDArray[np.bool_]:
        """Return the mask as bool HxW."""
        return rle.decode(self.mask)


def record_of(
    part: NDArray[np.bool_],
    origin: tuple[int, int],
    size: tuple[int, int],
    *,
    score: float,
    stability: float | None,
    point: tuple[float, float] | None,
    crop: Box,
) -> MaskRecord | None:
    """Return the record of a mask that is empty outside a rectangle; None if all of it is.

    Args:
        part: Bool hxw: the rectangle.
        origin: (x, y) of its first pixel in the image.
        size: (height, width) of the image.
        score: As in the record.
        stability: As in the record.
        point: As in the record.
        crop: As in the record.
    """
    box = regions.bounding_box(part)
    if box is None:
        return None
    x, y = origin
    return MaskRecord(
        mask=rle.encode_part(part, origin, size),
        score=score,
        stability=stability,
        box=(box[0] + x, box[1] + y, box[2] + x, box[3] + y),
        area=int(np.count_nonzero(part)),
        point=point,
        crop=crop,
    )
