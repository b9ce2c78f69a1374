"""An answer drawn on its photograph: mask, points and boxes. numpy and Pillow only.

Lines and markers grow with the picture, and each has a light and a dark part, so that it can be
seen on any photograph and at any size.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

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
ONLY_FOUND = (0, 200, 255)
GREY_STEP = 8


def draw(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    *,
    points: Sequence[tuple[float, float, int]] = (),
    boxes: Sequence[tuple[float, float, float, float]] = (),
) -> NDArray[np.uint8]:
    """A copy of the picture with a mask and its prompts on it: uint8 HxWx3 RGB.

    Args:
        image: uint8 HxWx3 RGB.
        mask: Bool HxW, tinted blue and outlined.
        points: (x, y, label) in pixels of `image`; label 1 is drawn green, any other red.
        boxes: (x0, y0, x1, y1) in pixels of `image`; what lies outside is drawn on its edge.
    """
    canvas: NDArray[np.uint8] = image.copy()
    longest = max(mask.shape)
    line = math.ceil(longest / 350)
    halo = max(1, round(line / 3))
    _paint(canvas, mask, BLUE, 0.40)
    _paint(canvas, _grown(mask, halo) & ~mask, BLACK, 0.55)
    _paint(canvas, mask & ~_shrunk(mask, line), WHITE, 1.0)
    for box in boxes:
        _outline_box(canvas, box, line + 2 * halo, BLACK, 0.55)
        _outline_box(canvas, box, line, YELLOW, 1.0)
    radius = max(2.5, longest / 100)
    ring = max(1.5, radius / 3)
    for x, y, label in points:
        _disc(canvas, (x, y), radius + ring + halo, BLACK, 0.55)
        _disc(canvas, (x, y), radius + ring, WHITE, 1.0)
        _disc(canvas, (x, y), radius, GREEN if label == 1 else RED, 1.0)
    return canvas


def check_suffix(path: Path) -> str:
    """The picture format that a file name asks for, as Pillow calls it.

    Raises:
        OutputError: None, or one that is not in `FORMATS`.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        what = f"`{path.suffix}`" if path.suffix else "no suffix"
        raise OutputError(
            f"cannot write picture `{path}`: {what} does not say a format that is known",
            hint=f"end the name in {', '.join(FORMATS)}",
        )
    return kind


def save(image: NDArray[np.uint8], path: Path) -> None:
    """Write a picture as its suffix says; a file already there is replaced only by a whole one.

    Args:
        image: uint8 HxWx3 RGB.
        path: Ends in `.png`, `.jpg` or `.jpeg`, in either case.

    Raises:
        OutputError: The suffix is another one, or the file cannot be written.
    """
    kind = check_suffix(path)
    data = io.BytesIO()
    try:
        Image.fromarray(image).save(data, kind, quality=JPEG_QUALITY)
    except OSError as error:
        h, w = image.shape[:2]
        raise OutputError(
            f"cannot write picture `{path}`: {kind} cannot hold {w}x{h} pixels",
            hint="end the name in .png",
        ) from error
    write_whole(path, data.getvalue())


def disagreement(
    image: NDArray[np.uint8], reference: NDArray[np.bool_], found: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Where two masks differ, in `ONLY_REFERENCE` and `ONLY_FOUND` on a dark photograph.

    A pixel is coloured however few of the mask's pixels under it differ, and grey is lighter
    where both masks are.

    Args:
        image: Photograph, uint8 hxwx3 RGB, at the size of the result.
        reference: Bool HxW, of that size or larger.
        found: Likewise.
    """
    size = (image.shape[0], image.shape[1])
    both = _share(reference & found, size)
    missed = _share(reference & ~found, size)
    added = _share(found & ~reference, size)
    grey = image.mean(axis=2) * (0.3 + 0.45 * both)
    # In few levels: the picture is there for its colours, and its PNG is half as large.
    canvas = np.repeat((grey / GREY_STEP).astype(np.uint8)[:, :, None] * GREY_STEP, 3, axis=2)
    canvas[(missed > 0) & (missed >= added)] = ONLY_REFERENCE
    canvas[added > missed] = ONLY_FOUND
    return canvas


def shrink(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask at a smaller size: pixels that are at least half covered.

    Args:
        mask: Bool HxW.
        size: (height, width) in pixels, neither larger than the mask's.
    """
    share = _share(mask, size)
    half = share >= 0.5
    # A mask too small to fill half a pixel anywhere must not look like no mask.
    return half if half.any() else share > 0


def _share(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.float64]:
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, mask.shape, strict=True))
    sums = np.add.reduceat(mask, rows, axis=0, dtype=np.int64)
    sums = np.add.reduceat(sums, columns, axis=1)
    heights = np.diff(rows, append=mask.shape[0])
    widths = np.diff(columns, append=mask.shape[1])
    share: NDArray[np.float64] = sums / np.outer(heights, widths)
    return share


def _paint(
    canvas: NDArray[np.uint8], where: NDArray[np.bool_], colour: Colour, alpha: float
) -> None:
    pixels = canvas[where].astype(np.float32)
    canvas[where] = np.rint(
        pixels + (np.asarray(colour, dtype=np.float32) - pixels) * alpha
    ).astype(np.uint8)


def _grown(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """Pixels with one of the mask at most `by` rows and `by` columns away."""
    for _ in range(2):
        grown = mask.copy()
        for step in range(1, by + 1):
            grown[step:] |= mask[:-step]
            grown[:-step] |= mask[step:]
        mask = grown.T
    return mask


def _shrunk(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """The mask without `by` pixels at its edge; outside the picture is background."""
    return ~_grown(~np.pad(mask, 1), by)[1:-1, 1:-1]


def _outline_box(
    canvas: NDArray[np.uint8],
    box: tuple[float, float, float, float],
    line: int,
    colour: Colour,
    alpha: float,
) -> None:
    height, width = canvas.shape[:2]
    # Clipped before it is rounded: a corner may lie at infinity.
    x0, x1 = (round(min(max(x, 0), width - 1)) - line // 2 for x in (box[0], box[2]))
    y0, y1 = (round(min(max(y, 0), height - 1)) - line // 2 for y in (box[1], box[3]))
    where = np.zeros((height, width), dtype=np.bool_)
    where[max(y0, 0) : y1 + line, max(x0, 0) : x1 + line] = True
    where[max(y0 + line, 0) : max(y1, 0), max(x0 + line, 0) : max(x1, 0)] = False
    _paint(canvas, where, colour, alpha)


def _disc(
    canvas: NDArray[np.uint8],
    centre: tuple[float, float],
    radius: float,
    colour: Colour,
    alpha: float,
) -> None:
    """Paint a filled circle with a smooth edge; the pixel (x, y) has its centre at (x, y)."""
    height, width = canvas.shape[:2]
    x, y = centre
    reach = radius + 1
    left, right = (int(min(max(v, 0), width)) for v in (x - reach, x + reach + 1))
    top, bottom = (int(min(max(v, 0), height)) for v in (y - reach, y + reach + 1))
    rows, columns = np.ogrid[top:bottom, left:right]
    distance = np.hypot(rows - y, columns - x).astype(np.float32)
    cover = np.clip(radius + 0.5 - distance, 0, 1)[:, :, None] * alpha
    region = canvas[top:bottom, left:right]
    region[:] = np.rint(region + (np.asarray(colour, dtype=np.float32) - region) * cover).astype(
        np.uint8
    )
