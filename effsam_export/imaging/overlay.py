"""Draw masks, points and boxes over an image with Pillow.

Line widths scale with the image. Lines and markers have a light and a dark part, to be visible on
any background.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageChops

from effsam_export.errors import OutputError
from effsam_export.imaging.strokes import box_outline, disc, grown, paint, shrunk
from effsam_export.util.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from effsam_export.imaging.strokes import Colour

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
    paint_object(canvas, mask, points=points, boxes=boxes, longest=max(mask.shape))
    return np.array(canvas)


def paint_object(
    canvas: Image.Image,
    mask: NDArray[np.bool_],
    *,
    points: Sequence[tuple[float, float, int]] = (),
    boxes: Sequence[tuple[float, float, float, float]] = (),
    longest: int,
    tint: Colour = BLUE,
    box_colour: Colour = YELLOW,
) -> None:
    """Paint a mask and its prompt into a canvas.

    Args:
        canvas: RGB, changed.
        mask: Bool, in the size of the canvas.
        points: As in `draw`.
        boxes: As in `draw`.
        longest: Longest side of the whole image, which the lines scale with.
        tint: Colour of the mask.
        box_colour: Colour of the boxes.
    """
    region = Image.fromarray(mask.astype(np.uint8) * 255)
    line = math.ceil(longest / 350)
    halo = max(1, round(line / 3))
    paint(canvas, region, tint, 0.40)
    paint(canvas, ImageChops.subtract(grown(region, halo), region), BLACK, 0.55)
    paint(canvas, ImageChops.subtract(region, shrunk(region, line)), WHITE, 1.0)
    for box in boxes:
        paint(canvas, box_outline(canvas.size, box, line + 2 * halo), BLACK, 0.55)
        paint(canvas, box_outline(canvas.size, box, line), box_colour, 1.0)
    radius = max(2.5, longest / 100)
    ring = max(1.5, radius / 3)
    for x, y, label in points:
        disc(canvas, (x, y), radius + ring + halo, BLACK, 0.55)
        disc(canvas, (x, y), radius + ring, WHITE, 1.0)
        disc(canvas, (x, y), radius, GREEN if label == 1 else RED, 1.0)


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
