"""Check the arrays of a predictor's calls, and make images and prompts of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from effsam_export.errors import ImageError, PromptError
from effsam_export.imaging.decode import read_image
from effsam_export.spec.prompts import Point, Prompt

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from effsam_export.imaging.pixels import ValueRange
    from effsam_export.spec.tensors import Float32

Shape = tuple["int | None", ...]
"""A shape in which None is any number."""


def to_pixels(
    image: NDArray[np.uint8] | str | Path | Any,  # noqa: ANN401 - a PIL image
    image_format: str,
    value_range: ValueRange,
) -> NDArray[np.uint8]:
    """Return an image as uint8 HxWx3 RGB. See `Predictor.set_image`."""
    if image_format not in ("RGB", "BGR"):
        raise ImageError(f"image_format `{image_format}` is unknown", hint="use RGB or BGR")
    if isinstance(image, (str, Path)):
        return read_image(Path(image), value_range).pixels
    if hasattr(image, "convert") and hasattr(image, "size"):
        return np.asarray(image.convert("RGB"))
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ImageError(
            f"the image is {pixels.dtype} {list(pixels.shape)}, want uint8 HxWx3",
            hint="give an array of that form, a path, or a PIL image",
        )
    return np.ascontiguousarray(pixels if image_format == "RGB" else pixels[:, :, ::-1])


def to_prompt(
    coords: ArrayLike | None,
    labels: ArrayLike | None,
    box: ArrayLike | None,
    mask: ArrayLike | None,
    low_res: tuple[int, int],
) -> Prompt:
    """Return the arguments of `Predictor.predict` as a prompt.

    Args:
        coords: Nx2.
        labels: N.
        box: 4 numbers.
        mask: Logits 1xSxS or SxS.
        low_res: Height and width of the model's logits.

    Raises:
        PromptError: One has another shape, or is not finite; or labels are missing.
    """
    logits = None
    if mask is not None:
        logits = _numbers("mask_input", mask, ((1, *low_res), low_res)).reshape(low_res)
    return _prompt(
        None if coords is None else _numbers("point_coords", coords, ((None, 2),)),
        None if labels is None else _numbers("point_labels", labels, ((None,),)),
        None if box is None else _numbers("box", box, ((4,), (1, 4))).reshape(4),
        logits,
    )


def to_prompts(
    coords: ArrayLike | None, labels: ArrayLike | None, boxes: ArrayLike | None
) -> list[Prompt]:
    """Return the arguments of `Predictor.predict_batch` as prompts.

    Raises:
        PromptError: One has another shape, or is not finite; or they are of different numbers.
    """
    points = None if coords is None else _numbers("point_coords", coords, ((None, None, 2),))
    marks = None if labels is None else _numbers("point_labels", labels, ((None, None),))
    corners = None if boxes is None else _numbers("boxes", boxes, ((None, 4),))
    counts = {len(a) for a in (points, marks, corners) if a is not None}
    if len(counts) != 1 or 0 in counts:
        raise PromptError(
            "point_coords, point_labels and boxes are of different numbers of prompts"
            if len(counts) > 1
            else "there is no prompt",
            hint="give BxNx2 points with BxN labels, or Bx4 boxes",
        )
    return [
        _prompt(
            None if points is None else points[i],
            None if marks is None else marks[i],
            None if corners is None else corners[i],
            None,
        )
        for i in range(counts.pop())
    ]


def _prompt(
    coords: Float32 | None, labels: Float32 | None, box: Float32 | None, mask: Float32 | None
) -> Prompt:
    if (coords is None) != (labels is None) or (
        coords is not None and labels is not None and len(coords) != len(labels)
    ):
        raise PromptError(
            "point_coords and point_labels are of different numbers of points",
            hint="give a label for each point: 1 on the object, 0 off it",
        )
    points: tuple[Point, ...] = ()
    if coords is not None and labels is not None:
        wrong = [float(v) for v in labels if v not in (0, 1)]
        if wrong:
            raise PromptError(
                f"label {wrong[0]:g} of a point is neither 1 (on) nor 0 (off the object)"
            )
        points = tuple(
            Point(x=float(x), y=float(y), label=int(v))
            for (x, y), v in zip(coords, labels, strict=True)
        )
    corners = None
    if box is not None:
        x0, y0, x1, y1 = map(float, box)
        corners = (x0, y0, x1, y1)
    return Prompt(points=points, box=corners, mask_input=mask)


def _numbers(name: str, value: ArrayLike, shapes: tuple[Shape, ...]) -> Float32:
    """Return an argument as finite float32 of one of some shapes."""
    wanted = " or ".join("x".join("N" if n is None else str(n) for n in s) for s in shapes)
    try:
        array = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise PromptError(f"{name} is not an array of numbers", hint=f"want {wanted}") from error
    fits = any(
        array.ndim == len(shape)
        and all(n in (None, have) for n, have in zip(shape, array.shape, strict=True))
        for shape in shapes
    )
    if not fits:
        raise PromptError(f"{name} has the shape {list(array.shape)}", hint=f"want {wanted}")
    if not np.isfinite(array).all():
        raise PromptError(f"{name} is not finite")
    return array
