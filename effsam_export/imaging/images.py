"""Convert images, prompts and masks between frames. numpy and Pillow only.

Frames: *original* is the image after EXIF rotation, pixels (x, y) with the origin at the top left;
*model* is the resized image, padded at the bottom and right.
Source: segment-anything, `utils/transforms.py` and `modeling/sam.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from effsam_export.errors import PromptError, joined
from effsam_export.imaging import corner
from effsam_export.imaging.letterbox import fit, letterbox, resize_linear
from effsam_export.spec.prompts import MaskSet, Point, Preprocess, Prompt, PromptSupport
from effsam_export.spec.sizes import sides

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from effsam_export.spec.sizes import Size
    from effsam_export.spec.tensors import Float32

SUPPORT_HINT = "`effsam info MODEL` shows the supported prompts"
STABILITY_OFFSET = 1.0
"""Default offset of the stability score in segment-anything's mask generator, in logits."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Sizes (height, width) of one image in the frames of a model, in pixels.

    Attributes:
        original: Size of the original image.
        resized: Size of the image inside the encoder's input.
        image_size: Size of that input.
        prompt: Size of the image inside the frame of prompts and masks.
        prompt_size: Size of that frame.
        scale: What a coordinate of a prompt is multiplied with, in both directions; None where it
            is `prompt` / `original` in each.
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    image_size: Size
    prompt: tuple[int, int]
    prompt_size: Size
    scale: float | None = None


def frame_of(size: tuple[int, int], preprocess: Preprocess) -> Frame:
    """Return the sizes of an image of (height, width) in the frames of a model."""
    resized, prompt = _sizes(size, preprocess)
    return Frame(
        original=size,
        resized=resized,
        image_size=preprocess.image_size,
        prompt=prompt,
        prompt_size=preprocess.prompt_size,
        scale=corner.scale_of(size, preprocess.image_size)
        if preprocess.family == "corner"
        else None,
    )


def _sizes(
    size: tuple[int, int], preprocess: Preprocess
) -> tuple[tuple[int, int], tuple[int, int]]:
    match preprocess.family:
        case "longest-side-pad" | "longest-side-linear" | "whole":
            return _fitted(size, preprocess.image_size), _fitted(size, preprocess.prompt_size)
        case "longest-side-floor":
            return _floored(size, preprocess.image_size), _floored(size, preprocess.prompt_size)
        case "corner":
            fitted = _fitted(size, preprocess.image_size)
            return fitted, fitted
        case "squash":
            return sides(preprocess.image_size), sides(preprocess.prompt_size)
        case "letterbox":
            # Prompts and masks of this family are in pixels of the original image.
            return fit(size, preprocess.image_size, square=True).inner, size


def _fitted(size: tuple[int, int], frame: Size) -> tuple[int, int]:
    """Scale (height, width) to the largest size that fits a frame: `int(side * scale + 0.5)`."""
    height, width = sides(frame)
    scale = min(height / size[0], width / size[1])
    # At least one pixel for extreme aspect ratios, where the authors' code fails.
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))


def _floored(size: tuple[int, int], frame: Size) -> tuple[int, int]:
    """Scale (height, width) to fit a frame, as Transformers.js does.

    A side is rounded to two digits, halves up, and then down to a whole number.
    """
    height, width = sides(frame)
    scale = min(height / size[0], width / size[1])
    hundredth = Decimal("0.01")
    exact = (Decimal(side * scale).quantize(hundredth, ROUND_HALF_UP) for side in size)
    new = [max(1, int(side)) for side in exact]
    return new[0], new[1]


def resize(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize uint8 HxWx3 to (height, width) with Pillow's bilinear filter, like SAM's predictor."""
    h, w = size
    return np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR))


def encoder_image(image: NDArray[np.uint8], preprocess: Preprocess) -> Float32:
    """Convert an image uint8 HxWx3 RGB to float32 1x3xhxw, RGB: the pixels of the graph's input.

    They are 0 to 255, but for `longest-side-floor`, which is normalised.
    """
    size = (image.shape[0], image.shape[1])
    match preprocess.family:
        case "longest-side-pad":
            return pad(resize(image, frame_of(size, preprocess).resized), preprocess)
        case "longest-side-floor":
            return normalised(resize(image, frame_of(size, preprocess).resized), preprocess)
        case "corner":
            scaled = corner.fitted(image, preprocess.image_size)
            return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])
        case "longest-side-linear":
            return _planes(resize_linear(image, frame_of(size, preprocess).resized))
        case "whole":
            return _planes(image)
        case "squash":
            planes = image.transpose(2, 0, 1).astype(np.float32)
            return resize_bilinear(planes, sides(preprocess.image_size))[None]
        case "letterbox":
            boxed, _ = letterbox(image, preprocess.image_size, square=True)
            return _planes(boxed)


def _planes(image: NDArray[np.uint8]) -> Float32:
    """Return pixels HxWx3 as float32 1x3xHxW."""
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None], dtype=np.float32)


def pad(resized: NDArray[np.uint8], preprocess: Preprocess) -> Float32:
    """Pad a resized image uint8 HxWx3 with the pixel mean to the graph's float32 1x3xHxW."""
    h, w = resized.shape[:2]
    image = np.empty((1, 3, *sides(preprocess.image_size)), dtype=np.float32)
    image[0] = np.asarray(preprocess.pixel_mean, dtype=np.float32)[:, None, None]
    image[0, :, :h, :w] = resized.transpose(2, 0, 1)
    return image


def normalised(resized: NDArray[np.uint8], preprocess: Preprocess) -> Float32:
    """Normalise a resized image uint8 HxWx3, and pad it with zeros to float32 1x3xHxW."""
    h, w = resized.shape[:2]
    mean, std = (
        np.asarray(values, dtype=np.float32)
        for values in (preprocess.pixel_mean, preprocess.pixel_std)
    )
    image = np.zeros((1, 3, *sides(preprocess.image_size)), dtype=np.float32)
    image[0, :, :h, :w] = ((resized - mean) / std).transpose(2, 0, 1)
    return image


def check_prompt(prompt: Prompt, size: tuple[int, int], support: PromptSupport) -> None:
    """Check that a prompt lies in the image and is supported by the model.

    Args:
        prompt: In pixels of the original image.
        size: (height, width) of the original image.
        support: The prompts that the model supports.

    Raises:
        PromptError: The message lists all problems.
    """
    h, w = size
    problems = []
    if not prompt.points and prompt.box is None:
        problems.append("there is no point and no box")
    for p in prompt.points:
        if not (0 <= p.x < w and 0 <= p.y < h):
            problems.append(f"point ({p.x:g}, {p.y:g}) is outside the image of {w}x{h} pixels")
        if p.label not in (0, 1):
            problems.append(f"label {p.label} of a point is neither 1 (on) nor 0 (off the object)")
    if prompt.box is not None:
        x0, y0, x1, y1 = prompt.box
        if not np.isfinite(prompt.box).all():
            problems.append(f"box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) is not finite")
        elif not (x0 < x1 and y0 < y1):
            problems.append(f"box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) is empty: want x0 < x1, y0 < y1")
        elif x1 <= 0 or y1 <= 0 or x0 >= w or y0 >= h:
            problems.append(
                f"box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) is outside the image of {w}x{h} pixels"
            )
    limits = f"x runs from 0 to {w - 1}, y from 0 to {h - 1}, in pixels of the original image"
    unsupported = unsupported_parts(prompt, support)
    if problems or unsupported:
        raise PromptError(
            joined([*problems, *unsupported]),
            hint=limits if problems else SUPPORT_HINT,
        )


def unsupported_parts(prompt: Prompt, support: PromptSupport) -> list[str]:
    """Return the parts of a prompt that the model does not support, one sentence each."""
    slots = len(prompt.points) + (0 if prompt.box is None else 2)
    problems = []
    if any(p.label == 0 for p in prompt.points) and not support.negative_points:
        problems.append("this model takes no background points")
    if support.max_points is not None and slots > support.max_points:
        counted = ", a box counting as two" if prompt.box is not None else ""
        problems.append(f"this model takes {support.max_points} points{counted}, not {slots}")
    if prompt.box is not None and not support.box:
        problems.append("this model takes no box")
    if prompt.box is not None and prompt.points and not support.points_with_box:
        problems.append("this model takes points or a box, not both at once")
    if prompt.mask_input is not None and not support.mask:
        problems.append("this model takes no mask")
    return problems


def prompt_to_model(prompt: Prompt, frame: Frame) -> Prompt:
    """Convert a prompt from pixels of the original image to pixels of the prompt frame."""
    sy = frame.scale or frame.prompt[0] / frame.original[0]
    sx = frame.scale or frame.prompt[1] / frame.original[1]
    box = prompt.box
    return Prompt(
        points=tuple(Point(x=p.x * sx, y=p.y * sy, label=p.label) for p in prompt.points),
        box=None if box is None else (box[0] * sx, box[1] * sy, box[2] * sx, box[3] * sy),
        mask_input=prompt.mask_input,
    )


def upscale_masks(low_res: Float32, frame: Frame, masks: MaskSet) -> Float32:
    """Resize the decoder's logits to KxHxW at original size, by the model's rule."""
    if masks.upscale == "none":
        return low_res
    if masks.upscale == "bicubic":
        return resize_bicubic(low_res, frame.original)
    if masks.upscale == "corner":
        return corner.restored(low_res, frame.original)
    full = resize_bilinear(low_res, sides(frame.prompt_size))
    h, w = frame.prompt
    return resize_bilinear(full[:, :h, :w], frame.original)


def stability(logits: Float32, threshold: float, offset: float = STABILITY_OFFSET) -> float:
    """Return the stability score of mask logits, from 0 to 1.

    It is the area of the mask at threshold + offset divided by the area at threshold - offset,
    which is the IoU of the two masks; 0 where both are empty. Source: segment-anything,
    `utils/amg.py`, `calculate_stability_score`.
    """
    area = np.count_nonzero(logits > threshold - offset)
    return np.count_nonzero(logits > threshold + offset) / area if area else 0.0


def resize_bilinear(x: Float32, size: tuple[int, int]) -> Float32:
    """Resize KxHxW float32 bilinearly: half-pixel centres, no antialiasing, edges clamped.

    Equal to `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`. Pillow's
    filter differs when it shrinks an image.
    """
    # Columns first, while there are few rows: gathering columns is the slow step.
    for axis, new in ((2, size[1]), (1, size[0])):
        x = interpolated(x, linear_taps(x.shape[axis], new), axis)
    return x


@dataclass(frozen=True, kw_only=True)
class Taps:
    """The two old values between which each new one lies, along one axis.

    Attributes:
        low: Index of the first one; ascending.
        high: Index of the second one: the next, or the last again.
        part: Position between them, 0 to 1, float32.
    """

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    part: Float32

    def within(self, start: int, stop: int) -> Taps:
        """Return those of the new values from `start` on and before `stop`."""
        return Taps(
            low=self.low[start:stop], high=self.high[start:stop], part=self.part[start:stop]
        )

    def after(self, start: int) -> Taps:
        """Return the same for old values of which those before `start` are left out."""
        return Taps(low=self.low - start, high=self.high - start, part=self.part)


def linear_taps(old: int, new: int) -> Taps:
    """Return where `new` values lie between `old` ones, as in torch without aligned corners."""
    # As in torch, the scale is float32, and so is the position after one fused multiply-add.
    scale = np.float64(np.float32(old) / np.float32(new))
    at = ((np.arange(new) + 0.5) * scale - 0.5).astype(np.float32)
    at = np.maximum(at, np.float32(0))
    low = np.minimum(at.astype(np.int64), old - 1)
    return Taps(low=low, high=np.minimum(low + 1, old - 1), part=at - low.astype(np.float32))


def interpolated(x: Float32, taps: Taps, axis: int) -> Float32:
    """Return KxHxW with other values along axis 1 or 2."""
    part = taps.part[:, None] if axis == 1 else taps.part
    below, above = np.take(x, taps.low, axis=axis), np.take(x, taps.high, axis=axis)
    above -= below
    above *= part
    above += below
    return above


CUBIC = -0.75
"""Parameter `a` of the cubic convolution in torch (`aten/src/ATen/native/UpSample.h`)."""


def resize_bicubic(x: Float32, size: tuple[int, int]) -> Float32:
    """Resize KxHxW float32 bicubically: half-pixel centres, no antialiasing, edges repeated.

    Equal within FP32 rounding to `torch.nn.functional.interpolate(mode="bicubic",
    align_corners=False)`.
    """
    for axis, new in ((2, size[1]), (1, size[0])):
        old = x.shape[axis]
        scale = np.float64(np.float32(old) / np.float32(new))
        at = ((np.arange(new) + 0.5) * scale - 0.5).astype(np.float32)
        base = np.floor(at).astype(np.int64)
        t = at - base.astype(np.float32)
        total: Float32 | None = None
        for offset, weight in zip((-1, 0, 1, 2), _cubic_weights(t), strict=True):
            taken = np.take(x, np.clip(base + offset, 0, old - 1), axis=axis)
            part = taken * (weight[:, None] if axis == 1 else weight)
            total = part if total is None else total + part
        assert total is not None
        x = total
    return x


def _cubic_weights(t: Float32) -> tuple[Float32, Float32, Float32, Float32]:
    """Return Keys' cubic weights of the four neighbours of a position `t` past the second one."""
    a = np.float32(CUBIC)

    def near(d: Float32) -> Float32:
        return np.asarray(((a + 2) * d - (a + 3)) * d * d + 1, dtype=np.float32)

    def far(d: Float32) -> Float32:
        return np.asarray(((a * d - 5 * a) * d + 8 * a) * d - 4 * a, dtype=np.float32)

    return far(t + 1), near(t), near(1 - t), far(2 - t)
