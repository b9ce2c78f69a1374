"""Prompts, preprocessing and masks: what a caller of a model needs to know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from effsam_export.spec.tensors import Float32


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How a photograph becomes `image`, shared by runner, parity, calibration and manifest.

    Families:
        `longest-side-pad` (SAM and most of its relatives): RGB, longest side resized to
            `image_size` with `int(side * scale + 0.5)`, padded at the bottom and right with the
            pixel mean (which is zero after the normalisation inside the graph). Source:
            segment-anything, `segment_anything/utils/transforms.py` and `modeling/sam.py`.
        `squash` (EfficientSAM): RGB, both sides resized to `image_size` without antialiasing,
            aspect ratio not kept, no padding. Source: EfficientSAM,
            `efficient_sam/efficient_sam.py`.
        `letterbox` (FastSAM): RGB, resized to fit `image_size`, centred, filled with grey 114.
            Source: ultralytics as FastSAM uses it.

    Attributes:
        image_size: Side of the square the graph takes, in pixels.
        prompt_size: Side of the square frame that prompts and masks are in. `image_size` for all
            but EfficientViT-SAM-L, which sees 512 pixels and is prompted in 1024.
        pixel_mean, pixel_std: On the scale 0-255; subtracted and divided by inside the graph.
    """

    family: Literal["longest-side-pad", "squash", "letterbox"]
    image_size: int
    prompt_size: int
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Point:
    """A click at (x, y) in pixels; label 1 is foreground, 0 is background."""

    x: float
    y: float
    label: int = 1


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One question to the model: any points, at most one box, at most one mask.

    Coordinates are (x, y) in pixels of the frame the prompt is in: the original image (as a person
    sees it, after EXIF rotation), or the model frame once `images.prompt_to_model` has moved it.
    """

    points: tuple[Point, ...] = ()
    box: tuple[float, float, float, float] | None = None
    mask_input: Float32 | None = field(default=None, compare=False)
    """Logits 256x256 float32 of an earlier answer, or None."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What one component is asked.

    Attributes:
        image: The photograph as a person sees it, uint8 HxWx3 RGB.
        embeddings: `image_embeddings` float32 1x256x64x64, for the decoder.
        prompt: Prompt in pixels of the prompt frame, for the decoder.
    """

    image: NDArray[np.uint8]
    embeddings: Float32 | None = None
    prompt: Prompt | None = None


@dataclass(frozen=True, kw_only=True)
class PromptSupport:
    """Which prompts a model can honour; any other is refused with a sentence.

    Attributes:
        max_points: Most points of one prompt, a box counting as two; None if there is no limit.
        slots: Points that a decoder of fixed shapes has room for, empty ones by label -2; None for
            a dynamic decoder, and for a model with another rule.
    """

    negative_points: bool = True
    box: bool = True
    points_with_box: bool = True
    mask: bool = True
    max_points: int | None = None
    slots: int | None = None


@dataclass(frozen=True, kw_only=True)
class MaskSet:
    """Which of the decoder's masks are the answer, and how logits become a mask.

    Attributes:
        single: Index of the mask for unambiguous prompts; empty if the model has none.
        multimask: Indices of the set the best is chosen from.
        score: Output tensor that ranks the masks.
        upscale: `frame-bilinear`: bilinear to the prompt frame, padding cut off, bilinear to the
            original size. `bicubic`: straight to the original size.
    """

    single: tuple[int, ...]
    multimask: tuple[int, ...]
    threshold: float
    low_res_size: int
    score: str = "iou_predictions"
    upscale: Literal["frame-bilinear", "bicubic"] = "frame-bilinear"
