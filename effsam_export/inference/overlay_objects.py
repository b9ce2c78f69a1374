"""Draw the masks of several prompts over an image, each in a colour and with its number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from effsam_export.imaging.overlay import BLACK, WHITE, paint_object
from effsam_export.inference.overlay_many import colour

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from effsam_export.inference.found import FoundMask
    from effsam_export.spec.prompts import Prompt

Extent = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class DrawnObject:
    """The best mask of a prompt, and the prompt in pixels of the image."""

    number: int
    found: FoundMask
    prompt: Prompt


def draw(image: NDArray[np.uint8], objects: Sequence[DrawnObject]) -> NDArray[np.uint8]:
    """Return a copy of an image uint8 HxWx3 RGB with all objects, the largest at the bottom."""
    canvas = Image.fromarray(image)
    longest = max(canvas.size)
    for item in sorted(objects, key=lambda o: -o.found.area):
        extent = _extent(item, canvas.size, margin=math.ceil(longest / 50) + 8)
        left, top, right, bottom = extent
        part = canvas.crop(extent)
        box = item.prompt.box
        paint_object(
            part,
            item.found.decoded()[top:bottom, left:right],
            points=[(p.x - left, p.y - top, p.label) for p in item.prompt.points],
            boxes=[]
            if box is None
            else [(box[0] - left, box[1] - top, box[2] - left, box[3] - top)],
            longest=longest,
            tint=colour(item.number - 1),
            box_colour=colour(item.number - 1),
        )
        canvas.paste(part, (left, top))
    for item in objects:
        _write_number(canvas, item, longest)
    return np.array(canvas)


def _extent(item: DrawnObject, size: tuple[int, int], margin: int) -> Extent:
    """Return the part of an image of (width, height) that an object and its prompt reach."""
    width, height = size
    corners = [(p.x, p.y) for p in item.prompt.points]
    for box in (item.found.box, item.prompt.box):
        corners += [] if box is None else [(box[0], box[1]), (box[2], box[3])]
    # Clipped before rounding, because a box may be far outside the image.
    xs = [min(max(x, 0), width - 1) for x, _ in corners] or [0]
    ys = [min(max(y, 0), height - 1) for _, y in corners] or [0]
    return (
        max(0, int(min(xs)) - margin),
        max(0, int(min(ys)) - margin),
        min(width, int(max(xs)) + margin + 1),
        min(height, int(max(ys)) + margin + 1),
    )


def _write_number(canvas: Image.Image, item: DrawnObject, longest: int) -> None:
    """Write an object's number at the top left of its box, of its mask, or beside its point."""
    text = str(item.number)
    font = ImageFont.load_default(max(10, longest / 45))
    painter = ImageDraw.Draw(canvas)
    left, top, right, bottom = painter.textbbox((0, 0), text, font=font)
    edge = max(1, round((bottom - top) / 5))
    width, height = right - left + 2 * edge, bottom - top + 2 * edge
    anchor = item.prompt.box or item.found.box
    x, y = anchor[:2] if anchor else (item.prompt.points[0].x, item.prompt.points[0].y)
    # The whole label stays inside the image, where the image is large enough.
    x = round(min(max(x, 0), max(0, canvas.width - width - 1)))
    y = round(min(max(y, 0), max(0, canvas.height - height - 1)))
    painter.rectangle((x, y, x + width, y + height), fill=colour(item.number - 1), outline=BLACK)
    painter.text(
        (x + edge - left, y + edge - top),
        text,
        fill=WHITE,
        font=font,
        stroke_width=edge // 2,
        stroke_fill=BLACK,
    )
