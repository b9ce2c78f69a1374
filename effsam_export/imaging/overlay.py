"""Draw masks, points and boxes over an image with Pillow.

Line widths scale with the image. Lines and markers have a light and a dark part, to be visible on
any background.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from effsam_export.errors import OutputError
from effsam_export.util.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Colour = tuple[int, int, int]

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
JPEG_QUALITY = 92

BLUE = (30, 120, 255)
YELLOW = (255, 214, 10)
GREEN = (22, 163, 74)
RED = (225, 29, 46)
WHITE = (255, 255, 255)
BLACK = (0, 0, 0)
ONLY_REFERENCE = (255, 140, 0)
ONLY_ARTIFACT = (0, 200, 255)
GREY_STEP = 8
SUPERSAMPLING = 8
"""Pillow draws circles without antialiasing: they are drawn this many times larger."""


def draw(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    *,
    points: Sequence[tuple[float, float, int]] = (),
    boxes: Sequence[tuple[float, float, float, float]] = (),
) -> NDArray[np.uint8]:
    """Return a copy of an image with a mask and its prompts drawn over it, uint8 HxWx3 RGB.

    Args:
        image: uint8 HxWx3 RGB.
        mask: Bool HxW, tinted blue and outlined.
        points: (x, y, label) in pixels of `image`; label 1 is drawn green, any other red.
        boxes: (x0, y0, x1, y1) in pixels of `image`; sides outside are drawn on its edge.
    """
    canvas = Image.fromarray(image)
    region = Image.fromarray(mask.astype(np.uint8) * 255)
    longest = max(mask.shape)
    line = math.ceil(longest / 350)
    halo = max(1, round(line / 3))
    _paint(canvas, region, BLUE, 0.40)
    _paint(canvas, ImageChops.subtract(_grown(region, halo), region), BLACK, 0.55)
    _paint(canvas, ImageChops.subtract(region, _shrunk(region, line)), WHITE, 1.0)
    for box in boxes:
        _paint(canvas, _box_outline(canvas.size, box, line + 2 * halo), BLACK, 0.55)
        _paint(canvas, _box_outline(canvas.size, box, line), YELLOW, 1.0)
    radius = max(2.5, longest / 100)
    ring = max(1.5, radius / 3)
    for x, y, label in points:
        _disc(canvas, (x, y), radius + ring + halo, BLACK, 0.55)
        _disc(canvas, (x, y), radius + ring, WHITE, 1.0)
        _disc(canvas, (x, y), radius, GREEN if label == 1 else RED, 1.0)
    return np.array(canvas)


def check_suffix(path: Path) -> str:
    """Return Pillow's name of the image format for a file name's suffix.

    Raises:
        OutputError: The suffix is missing or not in `FORMATS`.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        what = (
            f"`{path.suffix}` is not a supported format"
            if path.suffix
            else "no suffix names its format"
        )
        raise OutputError(
            f"cannot write image `{path}`: {what}",
            hint=f"end the name in {', '.join(FORMATS)}",
        )
    return kind


def save(image: NDArray[np.uint8], path: Path) -> None:
    """Write an image atomically, in the format of the file name's suffix.

    Args:
        image: uint8 HxWx3 RGB.
        path: Ends in `.png`, `.jpg` or `.jpeg`, in either case.

    Raises:
        OutputError: The suffix is not supported, or the file cannot be written.
    """
    kind = check_suffix(path)
    data = io.BytesIO()
    try:
        Image.fromarray(image).save(data, kind, quality=JPEG_QUALITY)
    except OSError as error:
        h, w = image.shape[:2]
        raise OutputError(
            f"cannot write image `{path}`: {kind} cannot hold {w}x{h} pixels",
            hint="end the name in .png",
        ) from error
    write_whole(path, data.getvalue())


def disagreement(
    image: NDArray[np.uint8], reference: NDArray[np.bool_], artifact: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Return a picture of the difference of two masks, uint8 hxwx3 RGB.

    Pixels of only one mask have the colour `ONLY_REFERENCE` or `ONLY_ARTIFACT`. The rest is a dark
    grey image, lighter where the masks agree. When the masks are larger than the picture, one
    different mask pixel is enough to colour a pixel.

    Args:
        image: uint8 hxwx3 RGB, in the size of the result.
        reference: PyTorch's mask, bool HxW, of that size or larger.
        artifact: The exported model's mask, of the same size as `reference`.
    """
    size = (image.shape[0], image.shape[1])
    both = _coverage(reference & artifact, size)
    missed = _coverage(reference & ~artifact, size)
    added = _coverage(artifact & ~reference, size)
    grey = image.mean(axis=2) * (0.3 + 0.45 * both)
    # Few grey levels halve the size of the PNG.
    canvas = np.repeat((grey / GREY_STEP).astype(np.uint8)[:, :, None] * GREY_STEP, 3, axis=2)
    canvas[(missed > 0) & (missed >= added)] = ONLY_REFERENCE
    canvas[added > missed] = ONLY_ARTIFACT
    return canvas


def shrink(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a mask at a smaller size: the pixels that it covers at least by half.

    Args:
        mask: Bool HxW.
        size: (height, width) in pixels, neither larger than the mask's.
    """
    share = _coverage(mask, size)
    half = share >= 0.5
    # Otherwise a mask that fills no pixel by half would disappear.
    return half if half.any() else share > 0


def _coverage(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.float64]:
    """Return the covered fraction of each pixel of a smaller (height, width), from 0 to 1."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, mask.shape, strict=True))
    sums = np.add.reduceat(mask, rows, axis=0, dtype=np.int64)
    sums = np.add.reduceat(sums, columns, axis=1)
    heights = np.diff(rows, append=mask.shape[0])
    widths = np.diff(columns, append=mask.shape[1])
    share: NDArray[np.float64] = sums / np.outer(heights, widths)
    return share


def _paint(
    canvas: Image.Image,
    cover: Image.Image,
    colour: Colour,
    alpha: float,
    corner: tuple[int, int] = (0, 0),
) -> None:
    """Blend a colour into a canvas where `cover` (mode L, 0 to 255) is not black."""
    canvas.paste(colour, corner, cover.point(lambda value: round(value * alpha)))


def _grown(region: Image.Image, by: int) -> Image.Image:
    """Return a black and white image whose white is dilated by a square of `by` pixels each way."""
    # A box blur reaches as far as a dilation, in a time that does not depend on `by`. It runs along
    # one axis at a time, because the share of one pixel in a whole square rounds to black.
    for radius in ((by, 0), (0, by)):
        region = region.filter(ImageFilter.BoxBlur(radius)).point(lambda value: 255 * (value > 0))
    return region


def _shrunk(region: Image.Image, by: int) -> Image.Image:
    """Return a region eroded by `by` pixels; outside the image is background."""
    outside = ImageOps.invert(ImageOps.expand(region, border=1))
    return ImageOps.crop(ImageOps.invert(_grown(outside, by)), border=1)


def _box_outline(
    size: tuple[int, int], box: tuple[float, float, float, float], line: int
) -> Image.Image:
    """Return the outline of a box as white on black, in an image of (width, height)."""
    width, height = size
    # Clipped before rounding, because a corner may be infinite.
    x0, x1 = (round(min(max(x, 0), width - 1)) - line // 2 for x in (box[0], box[2]))
    y0, y1 = (round(min(max(y, 0), height - 1)) - line // 2 for y in (box[1], box[3]))
    cover = Image.new("L", size)
    corners = (x0, y0, x1 + line - 1, y1 + line - 1)
    ImageDraw.Draw(cover).rectangle(corners, outline=255, width=line)
    return cover


def _disc(
    canvas: Image.Image,
    centre: tuple[float, float],
    radius: float,
    colour: Colour,
    alpha: float,
) -> None:
    """Paint a filled, antialiased circle; the pixel (x, y) has its centre at (x, y)."""
    x, y = centre
    reach = radius + 1
    if not (-reach < x < canvas.width + reach and -reach < y < canvas.height + reach):
        return
    left, top = math.floor(x - reach), math.floor(y - reach)
    side = math.ceil(2 * reach) + 2
    cover = Image.new("L", (side * SUPERSAMPLING, side * SUPERSAMPLING))
    # Pixel v reaches from v to v + 1 in this image; the last pixel of an ellipse belongs to it.
    x0, y0, x1, y1 = (
        round(SUPERSAMPLING * (v + 0.5 + sign * radius))
        for sign in (-1, 1)
        for v in (x - left, y - top)
    )
    ImageDraw.Draw(cover).ellipse((x0, y0, x1 - 1, y1 - 1), fill=255)
    _paint(canvas, cover.reduce(SUPERSAMPLING), colour, alpha, (left, top))
