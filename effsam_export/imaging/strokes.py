"""Lines, discs and tints that are painted over an image with Pillow."""

from __future__ import annotations

import math

from PIL import Image, ImageDraw, ImageFilter, ImageOps

Colour = tuple[int, int, int]
"""RGB, 0 to 255."""

SUPERSAMPLING = 8
"""Pillow draws circles without antialiasing: they are drawn this many times larger."""


def paint(
    canvas: Image.Image,
    cover: Image.Image,
    colour: Colour,
    alpha: float,
    corner: tuple[int, int] = (0, 0),
) -> None:
    """Blend a colour into a canvas where `cover` (mode L, 0 to 255) is not black."""
    canvas.paste(colour, corner, cover.point(lambda value: round(value * alpha)))


def grown(region: Image.Image, by: int) -> Image.Image:
    """Return a black and white image whose white is dilated by a square of `by` pixels each way."""
    # A box blur reaches as far as a dilation, in a time that does not depend on `by`. It runs along
    # one axis at a time, because the share of one pixel in a whole square rounds to black.
    for radius in ((by, 0), (0, by)):
        region = region.filter(ImageFilter.BoxBlur(radius)).point(lambda value: 255 * (value > 0))
    return region


def shrunk(region: Image.Image, by: int) -> Image.Image:
    """Return a region eroded by `by` pixels; outside the image is background."""
    outside = ImageOps.invert(ImageOps.expand(region, border=1))
    return ImageOps.crop(ImageOps.invert(grown(outside, by)), border=1)


def box_outline(
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


def disc(
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
    paint(canvas, cover.reduce(SUPERSAMPLING), colour, alpha, (left, top))
