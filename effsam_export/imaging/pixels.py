"""Convert an image of any pixel format to 8-bit RGB.

Values of more than 8 bits are read in a range, because files seldom say how many bits they use.

Needs numpy and Pillow, nothing else: `effsam code` copies this file.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from effsam_export.imaging.samples import PixelError, Samples, deep_samples

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Literal

    from numpy.typing import NDArray

    from effsam_export.imaging.samples import OpenImage

    ValueRange = Literal["auto", "full"] | tuple[float, float]
    """The values that become black and white: by the image's own values, all of the file's type, or
    from a first number to a greater second one."""
DEPTHS = (8, 10, 12, 14)
"""Bits of the samples of cameras and scanners, which are stored in 16 bits."""
BAND_PIXELS = 4 * 1024 * 1024
"""Pixels that are converted at a time, to save memory."""
ORIENTATION = 0x0112
"""EXIF tag of the rotation."""
ORIENTATIONS = (1, 2, 3, 4, 5, 6, 7, 8)
"""Values of it: not changed, mirrored, turned by 180 degrees, upside down; then the same of the
image with rows and columns exchanged."""
RANGE_HINT = "give the values that are black and white: `--range LOW,HIGH`, `range` in a TOML file"


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A decoded image.

    Attributes:
        pixels: uint8 HxWx3 RGB, with the EXIF rotation applied.
        low: Value of the file that became 0.
        high: Value that became 255.
        notes: What is not plain about the image, as the ends of sentences about it.
    """

    pixels: NDArray[np.uint8]
    low: float = 0
    high: float = 255
    notes: tuple[str, ...] = ()


def decode(open_image: OpenImage, value_range: ValueRange = "auto") -> Decoded:
    """Decode an image as 8-bit RGB.

    Of a file with several images, the first one is decoded. Integers of n bits become their upper
    8 bits; other ranges are scaled linearly and rounded. Values outside the range are clipped.

    Args:
        open_image: Opens the image; called once or twice.
        value_range: `auto` reads 8-bit values as they are. For integers of more bits it takes the
            least of 8, 10, 12, 14 and 16 bits that hold all values. Beyond 16 bits, and where a
            value is negative, it stretches the values from the least to the greatest. For floating
            point it takes 0 to 1 or 0 to 255, whichever is the least that holds them.

    Raises:
        PixelError: The range cannot be known, a value is NaN or infinite, or the samples are
            stored in a way that cannot be read.
    """
    image = open_image()
    # An animation has frames, not pages.
    paged = image.format == "TIFF" and getattr(image, "is_animated", False)
    notes = ["has more than one page: the first one was read"] if paged else []
    samples = deep_samples(open_image, image)
    if samples is None and isinstance(value_range, tuple):
        samples = Samples(
            kind="unsigned", bits=8, mode="RGB", rows=lambda *rows: _eight_bits(image, *rows)
        )
    image.load()
    low: float
    high: float
    low, high = 0, 255
    bands = list(_bands(image.width, image.height))
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    if samples is None:
        for top, bottom in bands:
            pixels[top:bottom] = _eight_bits(image, top, bottom)
    else:
        least, greatest = _extremes(samples, bands)
        low, high = choose(samples, least, greatest, value_range)
        rule = value_range if isinstance(value_range, str) else f"{number(low)},{number(high)}"
        notes.append(f"{_words(samples, least, greatest, (low, high))} by the range `{rule}`")
        for top, bottom in bands:
            values = scaled(samples.rows(top, bottom), low, high)
            values = 255 - values if samples.inverted else values
            size = (image.width, bottom - top)
            band = Image.frombytes(samples.mode, size, values.tobytes())
            pixels[top:bottom] = _rgb(band)
    # The EXIF data of a PNG file may follow the pixels.
    pixels = rotated(pixels, image.getexif().get(ORIENTATION))
    return Decoded(pixels=pixels, low=low, high=high, notes=tuple(notes))


def choose(
    samples: Samples, least: float, greatest: float, value_range: ValueRange
) -> tuple[float, float]:
    """Return the values that become black and white, for samples from `least` to `greatest`.

    Raises:
        PixelError: The range cannot be known.
    """
    if isinstance(value_range, tuple):
        return value_range
    if samples.kind == "floating-point":
        if value_range == "auto" and least >= 0 and greatest <= 255:
            return 0, 1 if greatest <= 1 else 255
        span = f"has floating-point values from {number(least)} to {number(greatest)}"
        why = "which fit neither 0 to 1 nor 0 to 255"
        why = "which have no full range" if value_range == "full" else why
        raise PixelError(f"{span}, {why}", RANGE_HINT)
    signed = samples.kind == "signed"
    positive = samples.bits - signed
    if value_range == "full":
        return -(2**positive) if signed else 0, 2**positive - 1
    if least < 0 or greatest >= 2**16:
        return least, greatest
    if samples.bits == 12:
        return 0, 2**12 - 1
    greatest = max(greatest, samples.stated)
    bits = next((n for n in DEPTHS if greatest < 2**n), min(positive, 16))
    return 0, 2**bits - 1


def scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Return values as 8 bits: `low` becomes 0, `high` 255."""
    bits = whole_bits(low, high)
    if bits and values.dtype.kind in "iu":
        clipped = np.clip(values, 0, min(int(high), int(np.iinfo(values.dtype).max)))
        return (clipped >> (bits - 8)).astype(np.uint8)
    # An image of one value has no width.
    width = max(high - low, sys.float_info.min)
    with np.errstate(over="ignore"):
        share = (values.astype(np.float64) - low) / width
    scaled_up: NDArray[np.float64] = np.rint(np.clip(share, 0, 1) * 255)
    return scaled_up.astype(np.uint8)


def whole_bits(low: float, high: float) -> int:
    """Return the number of bits, 8 or more, whose values are those from `low` to `high`; else 0."""
    bits = int(high + 1).bit_length() - 1
    return bits if bits >= 8 and (low, high) == (0, 2**bits - 1) else 0


def number(value: float) -> str:
    """Return a number in words, without the decimals that it does not have."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:.6g}"


def rotated(pixels: NDArray[np.uint8], orientation: object) -> NDArray[np.uint8]:
    """Apply an EXIF orientation; a value that is none of 1 to 8 changes nothing."""
    if orientation not in ORIENTATIONS:
        return pixels
    which = ORIENTATIONS.index(orientation)
    if which >= 4:
        pixels = pixels.transpose(1, 0, 2)
    if which % 4 in (1, 2):
        pixels = pixels[:, ::-1]
    if which % 4 in (2, 3):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _bands(width: int, height: int) -> Iterator[tuple[int, int]]:
    """Yield the first and last row (exclusive) of each band."""
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def _extremes(samples: Samples, bands: Iterable[tuple[int, int]]) -> tuple[float, float]:
    """Return the least and the greatest value; those of alpha do not count.

    Raises:
        PixelError: A value is NaN or infinite.
    """
    colours = 3 if samples.mode == "RGBa" else None
    least, greatest = math.inf, -math.inf
    for top, bottom in bands:
        values = samples.rows(top, bottom)[..., :colours]
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise PixelError(
                "has values that are NaN or infinite", "replace them by numbers, and save it again"
            )
        least, greatest = min(least, values.min()), max(greatest, values.max())
    return float(least), float(greatest)


def _words(samples: Samples, least: float, greatest: float, taken: tuple[float, float]) -> str:
    """Return the values of an image and those that were taken as black and white, in words."""
    kind, more = "floating-point", ""
    if samples.kind != kind:
        kind = f"{'signed ' if samples.kind == 'signed' else ''}{samples.bits}-bit"
        bits = whole_bits(*taken)
        if bits:
            more = f" ({bits} bits)"
        elif taken == (least, greatest):
            more = " (stretched)"
    span = f"has {kind} values from {number(least)} to {number(greatest)}"
    return f"{span}, read as {number(taken[0])} to {number(taken[1])}{more}"


def _eight_bits(image: Image.Image, top: int, bottom: int) -> NDArray[np.uint8]:
    """Return rows of an image of 8-bit samples as HxWx3."""
    return _rgb(image.crop((0, top, image.width, bottom)))


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Return an image of 8-bit samples as HxWx3, without alpha."""
    # Pillow converts colours that were multiplied with alpha in two steps only.
    divided = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
    return np.asarray((image.convert(divided) if divided else image).convert("RGB"))
