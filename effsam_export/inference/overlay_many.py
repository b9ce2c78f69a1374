"""Draw many masks over an image, each in a different colour."""

from __future__ import annotations

import colorsys
import math
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

TINT = 0.5
GOLDEN_ANGLE = (3 - math.sqrt(5)) / 2
"""As a fraction of the hue circle, so that consecutive masks get clearly different hues."""


class Mask(Protocol):
    """An encoded mask and its number of pixels."""

    @property
    def area(self) -> int:
        """Number of pixels."""
        ...

    def decoded(self) -> NDArray[np.bool_]:
        """Return the mask as bool HxW."""
        ...


def colour(index: int) -> tuple[int, int, int]:
    """Return the RGB colour of the mask at `index`."""
    r, g, b = colorsys.hsv_to_rgb(index * GOLDEN_ANGLE % 1, 0.85, 1.0)
    return round(255 * r), round(255 * g), round(255 * b)


def draw(image: NDArray[np.uint8], records: Sequence[Mask]) -> NDArray[np.uint8]:
    """Return a copy of an image uint8 HxWx3 RGB with all masks tinted, largest at the bottom."""
    canvas = image.astype(np.float32)
    edges = np.zeros(image.shape[:2], dtype=np.bool_)
    for i, record in enumerate(sorted(records, key=lambda f: -f.area)):
        mask = record.decoded()
        tint = np.asarray(colour(i), dtype=np.float32)
        canvas[mask] = image[mask] * (1 - TINT) + tint * TINT
        edges &= ~mask
        edges |= mask & ~_inside(mask)
    canvas[edges] = 255
    return np.asarray(np.rint(canvas), dtype=np.uint8)


def _inside(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a mask whose four neighbours belong to it too."""
    padded = np.pad(mask, 1)
    return np.asarray(
        padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:] & mask
    )
