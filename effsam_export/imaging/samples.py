"""Read the samples of an image file that Pillow by itself would cut, clip or misread.

Pillow reads 16-bit colours by their upper byte, unsigned 32-bit values as signed ones, and signed
8-bit values as unsigned ones.

Needs numpy and Pillow, nothing else: `effsam code` copies this file.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import TiffImagePlugin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from PIL import Image, ImageFile

    OpenImage = Callable[[], ImageFile.ImageFile]

BITS_PER_SAMPLE, PHOTOMETRIC, MAX_SAMPLE, PLANAR, SAMPLE_FORMAT = 258, 262, 281, 284, 339
"""TIFF tags."""
WHITE_IS_ZERO, SEPARATE_PLANES, SIGNED = 0, 2, 2
"""Values of `PHOTOMETRIC`, `PLANAR` and `SAMPLE_FORMAT`."""
NATIVE = {
    **dict.fromkeys(("F;32F", "F;32BF"), "F;32NF"),
    **dict.fromkeys(("I;16S", "I;16BS"), "I;16NS"),
    **dict.fromkeys(("I;32S", "I;32BS"), "I;32NS"),
}
"""Pillow's layout of a TIFF file -> the one in this machine's byte order, in which libtiff returns
the samples of compressed files. Pillow would swap the bytes of big-endian ones once more."""


class PixelError(ValueError):
    """The pixels of an image cannot be read as they are meant. Its `hint` says what to do."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(problem)
        self.hint = hint


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The samples of an image.

    Attributes:
        kind: The type of their numbers.
        bits: Bits of a sample in the file.
        mode: Pillow's mode of the image, once its samples have 8 bits.
        rows: Returns the rows from one index to another as HxWxC.
        inverted: Whether small values are white.
        stated: Greatest value that the file declares; 0 if that is the greatest of its bits.
    """

    kind: Literal["unsigned", "signed", "floating-point"]
    bits: int
    mode: str
    rows: Callable[[int, int], NDArray[Any]]
    inverted: bool = False
    stated: int = 0


def deep_samples(open_image: OpenImage, image: ImageFile.ImageFile) -> Samples | None:
    """Return the samples of an image; None if they are unsigned and have 8 bits at most.

    Args:
        open_image: Opens the same image again: the lower bytes of colours are decoded separately.
        image: The image, opened and not yet decoded.

    Raises:
        PixelError: Samples of more than 8 bits are stored in separate planes.
    """
    tags: Mapping[int, Any] = {}
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
    bits = max(tags.get(BITS_PER_SAMPLE, ()), default=8)
    if tags.get(PLANAR) == SEPARATE_PLANES and len(image.getbands()) > 1 and bits > 8:
        raise PixelError(
            f"has channels of {bits} bits in separate planes, which are not supported",
            "save it again with interleaved channels (PlanarConfiguration 1)",
        )
    layout = _layout(image)
    if image.mode.startswith(("I", "F")):
        return _grey(image, layout, tags)
    if image.mode == "L" and SIGNED in tags.get(SAMPLE_FORMAT, ()):
        return Samples(
            kind="signed", bits=8, mode="L", rows=lambda *rows: _array(image, *rows).view(np.int8)
        )
    channels, _, order = layout.partition(";16")
    if order not in ("B", "L", "N"):
        return None
    if channels == "LA":
        # Pillow has no layout for the lower bytes alone, so all four bytes become channels.
        _set_layout(image, "RGBA")
        return Samples(
            kind="unsigned",
            bits=16,
            mode="L",
            rows=lambda *rows: _grey_of_four(_array(image, *rows)),
        )
    return _colours(open_image, image, channels, order)


def _grey(image: ImageFile.ImageFile, layout: str, tags: Mapping[int, Any]) -> Samples:
    """Return the samples of a grey image of 12, 16 or 32 bits."""
    if image.tile and image.tile[0][0] == "libtiff" and layout in NATIVE:
        _set_layout(image, NATIVE[layout])
    inverted = image.format == "TIFF" and tags.get(PHOTOMETRIC, 0) == WHITE_IS_ZERO
    if image.mode == "F":
        return Samples(
            kind="floating-point",
            bits=32,
            mode="L",
            rows=lambda *rows: _array(image, *rows),
            inverted=inverted,
        )
    signed = layout.endswith("S")
    bits = next((n for n in (12, 16) if f";{n}" in layout), 32)
    stated = tags.get(MAX_SAMPLE, 0)
    stated = max(stated, default=0) if isinstance(stated, tuple) else stated

    def rows(top: int, bottom: int) -> NDArray[Any]:
        values = _array(image, top, bottom)
        return values.view(np.uint32) if bits == 32 and not signed else values

    return Samples(
        kind="signed" if signed else "unsigned",
        bits=bits,
        mode="L",
        rows=rows,
        inverted=inverted,
        stated=stated if isinstance(stated, int) and stated < 2**bits - 1 else 0,
    )


def _colours(
    open_image: OpenImage, image: ImageFile.ImageFile, channels: str, order: str
) -> Samples:
    """Return the samples of an image of several channels of 16 bits.

    Pillow's layout for one byte order returns the upper bytes, that for the other the lower ones.
    """
    big = order == "B" or (order == "N" and sys.byteorder == "big")
    # Colours that were multiplied with alpha are divided by it later, in 8 bits.
    mode = "RGBa" if channels == "RGBa" else image.mode.removesuffix("A")
    channels = channels.upper()
    _set_layout(image, f"{channels};16{'B' if big else 'L'}")
    image.load()
    lower = open_image()
    _set_layout(lower, f"{channels};16{'L' if big else 'B'}")
    # Some versions of Pillow exchange the sides of a turned image only then.
    lower.load()

    def rows(top: int, bottom: int) -> NDArray[Any]:
        values = _joined(_array(image, top, bottom), _array(lower, top, bottom))
        return values[..., : len(mode)]

    return Samples(kind="unsigned", bits=16, mode=mode, rows=rows)


def _grey_of_four(values: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Return the grey values HxWx1 of HxWx4: upper and lower byte of grey, and of alpha."""
    return _joined(values[..., :1], values[..., 1:2])


def _joined(upper: NDArray[np.uint8], lower: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Return 16-bit values from their bytes."""
    shifted: NDArray[np.uint16] = np.left_shift(upper, 8, dtype=np.uint16)
    return shifted | lower


def _layout(image: ImageFile.ImageFile) -> str:
    """Return Pillow's name of the layout (raw mode) of a PNG or TIFF file; else nothing."""
    if image.format not in ("PNG", "TIFF") or not image.tile:
        return ""
    args = image.tile[0][3]
    return args if isinstance(args, str) else str(args[0]) if args else ""


def _set_layout(image: ImageFile.ImageFile, layout: str) -> None:
    """Replace the layout by which an image is going to be decoded."""

    def changed(tile: Any) -> Any:  # noqa: ANN401 - a private class of Pillow
        args = layout if isinstance(tile[3], str) else (layout, *tile[3][1:])
        # Before Pillow 11 it is a plain tuple.
        return tile._replace(args=args) if hasattr(tile, "_replace") else (*tile[:3], args)

    image.tile = [changed(tile) for tile in image.tile]


def _array(image: Image.Image, top: int, bottom: int) -> NDArray[Any]:
    """Return rows of an image as HxWxC."""
    rows = np.asarray(image.crop((0, top, image.width, bottom)))
    return rows if rows.ndim == 3 else rows[..., None]
