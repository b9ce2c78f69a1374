"""Letterbox: resize an image to fit a square or a rectangle, and pad it with grey on all sides.

Source: LetterBox of ultralytics 8.0.120, as used by FastSAM (b4ed20c). The pixels equal those of
OpenCV's `resize` with INTER_LINEAR, which computes in fixed point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from effsam_export.spec.sizes import sides

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from effsam_export.spec.sizes import Size

GREY = 114
STRIDE = 32
COEFFICIENT_BITS = 11
"""OpenCV's INTER_RESIZE_COEF_BITS."""


@dataclass(frozen=True, kw_only=True)
class Letterbox:
    """Position of an image in its letterbox. Sizes are (height, width) in pixels.

    Attributes:
        original: Size of the image.
        size: Size of the letterbox.
        scale: Pixels of the letterbox per pixel of the image.
        inner: Size of the resized image.
        top, left: Position of the resized image in the letterbox.
        framed: (x0, y0, x1, y1) of the smallest centred rectangle around the resized image whose
            sides are multiples of the stride. The authors' letterbox is this rectangle, and
            detected boxes are snapped to its border.
    """

    original: tuple[int, int]
    size: tuple[int, int]
    scale: float
    inner: tuple[int, int]
    top: int
    left: int
    framed: tuple[float, float, float, float]


def fit(original: tuple[int, int], image_size: Size, *, square: bool) -> Letterbox:
    """Return the position of an image of (height, width) in its letterbox.

    Args:
        original: Size of the image.
        image_size: Size of the exported graph's input.
        square: True: the letterbox has that size. False: it is the authors' rectangle, the
            smallest in it whose sides are multiples of the stride.
    """
    h, w = original
    height, width = sides(image_size)
    scale = min(height / h, width / w)
    inner = max(1, round(h * scale)), max(1, round(w * scale))
    strided = (
        inner[0] + (height - inner[0]) % STRIDE,
        inner[1] + (width - inner[1]) % STRIDE,
    )
    size = (height, width) if square else strided
    # As in the authors' code, an odd pixel of padding goes to the bottom and right.
    top = round((size[0] - inner[0]) / 2 - 0.1)
    left = round((size[1] - inner[1]) / 2 - 0.1)
    x0, y0 = (size[1] - strided[1]) / 2, (size[0] - strided[0]) / 2
    return Letterbox(
        original=original,
        size=size,
        scale=scale,
        inner=inner,
        top=top,
        left=left,
        framed=(x0, y0, x0 + strided[1], y0 + strided[0]),
    )


def letterbox(
    image: NDArray[np.uint8], image_size: Size, *, square: bool
) -> tuple[NDArray[np.uint8], Letterbox]:
    """Resize and pad uint8 HxWx3 to its letterbox, as `fit` describes it."""
    box = fit((image.shape[0], image.shape[1]), image_size, square=square)
    out = np.full((*box.size, 3), GREY, dtype=np.uint8)
    h, w = box.inner
    out[box.top : box.top + h, box.left : box.left + w] = resize_linear(image, box.inner)
    return out, box


def resize_linear(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize uint8 HxWxC bilinearly in OpenCV's fixed point, without antialiasing."""
    if image.shape[:2] == size:
        return image
    columns, left, right = _taps(image.shape[1], size[1])
    rows, above, below = _taps(image.shape[0], size[0])
    wide = image.astype(np.int32)
    last = image.shape[1] - 1
    across = (
        wide[:, columns] * left[:, None] + wide[:, np.minimum(columns + 1, last)] * right[:, None]
    )
    # The order of these shifts decides the rounding; it is OpenCV's.
    upper = (above[:, None, None] * (across[rows] >> 4)) >> 16
    lower_rows = np.minimum(rows + 1, image.shape[0] - 1)
    lower = (below[:, None, None] * (across[lower_rows] >> 4)) >> 16
    return np.asarray(np.clip((upper + lower + 2) >> 2, 0, 255), dtype=np.uint8)


def _taps(old: int, new: int) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Return the first source index of each new pixel, and the weights of it and the next one."""
    at = ((np.arange(new) + 0.5) * (1.0 / (new / old)) - 0.5).astype(np.float32)
    first = np.floor(at).astype(np.int64)
    part = at - first.astype(np.float32)
    outside = (first < 0) | (first >= old - 1)
    part = np.where(outside, np.float32(0), part).astype(np.float32)
    first = np.clip(first, 0, old - 1)
    one = np.float32(1 << COEFFICIENT_BITS)
    weights = np.rint((np.float32(1) - part) * one), np.rint(part * one)
    return first, weights[0].astype(np.int32), weights[1].astype(np.int32)
