"""Resize only the part of a mask's logits that is above a value.

Most masks of a whole image are small. Bilinear interpolation never exceeds the values it lies
between, so that pixels far from a mask need not be computed to know that they are not in it. Those
that are computed equal those of `images.upscale_masks` bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from effsam_export.imaging.images import interpolated, linear_taps, upscale_masks
from effsam_export.imaging.regions import bounding_box
from effsam_export.spec.sizes import sides

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from effsam_export.imaging.images import Frame, Taps
    from effsam_export.spec.prompts import MaskSet
    from effsam_export.spec.tensors import Float32

ROUNDING = 1e-5
"""Bound of the rounding errors of two bilinear resizes in FP32, relative to the largest value.

Each of the four interpolations along an axis has three rounded operations on values of at most
twice the largest one: 4 x 3 x 2 x 6e-8 is 1.5e-6.
"""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A rectangle of logits at original size; outside it, all logits are at or below a value.

    Attributes:
        logits: float32 hxw.
        origin: (x, y) of its first pixel in the image.
    """

    logits: Float32
    origin: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """Both resizes along one axis: to the frame of the prompts, and its inner part to the image.

    Attributes:
        lowest, highest: The first and the last of the decoder's values from which each pixel of
            the image is computed; ascending.
    """

    first: Taps
    second: Taps
    lowest: NDArray[np.int64]
    highest: NDArray[np.int64]

    def reached(self, start: int, last: int) -> tuple[int, int]:
        """Return the first pixel that a value from `start` to `last` reaches, and the end."""
        begin = np.searchsorted(self.highest, start, side="left")
        return int(begin), int(np.searchsorted(self.lowest, last, side="right"))


class PartUpscaler:
    """Upscales masks of one image by the model's rule.

    Args:
        frame: Sizes of the image.
        masks: The rule, and the size of the decoder's logits.
    """

    def __init__(self, frame: Frame, masks: MaskSet) -> None:
        self._frame, self._masks = frame, masks
        low_res, full = sides(masks.low_res_size), sides(frame.prompt_size)
        lengths = zip(low_res, full, frame.prompt, frame.original, strict=True)
        self._axes = [_axis(*of_axis) for of_axis in lengths]

    def upscale(self, low_res: Float32, least: float) -> Part | None:
        """Return the part of logits HxW that is above `least` at original size.

        Returns:
            The part, or None where no pixel can be above `least`. For a rule other than
            `frame-bilinear`, the part is the whole image.
        """
        largest = float(np.abs(low_res).max())
        if self._masks.upscale != "frame-bilinear" or not np.isfinite(largest):
            logits = upscale_masks(low_res[None], self._frame, self._masks)[0]
            return Part(logits=logits, origin=(0, 0))
        box = bounding_box(low_res > least - ROUNDING * largest)
        if box is None:
            return None
        rows, columns = self._axes
        y, y_end = rows.reached(box[1], box[3])
        x, x_end = columns.reached(box[0], box[2])
        if y >= y_end or x >= x_end:
            return None  # It lies in the padding.
        return Part(logits=self._resized(low_res, (y, y_end), (x, x_end)), origin=(x, y))

    def _resized(
        self, low_res: Float32, rows: tuple[int, int], columns: tuple[int, int]
    ) -> Float32:
        """Return the logits of a rectangle, by the steps of `upscale_masks`."""
        spans = [_span(a, *ends) for a, ends in zip(self._axes, (rows, columns), strict=True)]
        (row_taps, row_given), (column_taps, column_given) = spans
        x: Float32 = low_res[None, row_given, column_given]
        for of_rows, of_columns in zip(row_taps, column_taps, strict=True):
            x = interpolated(interpolated(x, of_columns, 2), of_rows, 1)
        logits: Float32 = x[0]
        return logits


def _axis(low_res: int, full: int, inner: int, original: int) -> _Axis:
    first, second = linear_taps(low_res, full), linear_taps(inner, original)
    return _Axis(
        first=first,
        second=second,
        lowest=first.low[second.low],
        highest=first.high[second.high],
    )


def _span(axis: _Axis, start: int, stop: int) -> tuple[tuple[Taps, Taps], slice]:
    """Return the two resizes of a range of pixels, and the values that they are computed from."""
    second = axis.second.within(start, stop)
    begin = int(second.low[0])
    first = axis.first.within(begin, int(second.high[-1]) + 1)
    given = slice(int(first.low[0]), int(first.high[-1]) + 1)
    return (first.after(given.start), second.after(begin)), given
