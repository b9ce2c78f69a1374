"""Preprocessing, prompts and mask outputs of a model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from effsam_export.spec.sizes import Size
    from effsam_export.spec.tensors import Feeds, Float32

MAX_POINTS = 1000
"""Maximum number of points or boxes of one call: a decoder's memory grows with them."""
MAX_SIDE = 1_000_000
"""No coordinate is larger: no image has as many pixels on a side."""
EMBEDDINGS = "image_embeddings"
"""Output of an encoder."""
POSITIONS = "image_positional_embeddings"
"""Second output of an encoder whose decoder takes the positions of the embedding's cells."""


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How an image becomes the graph's `image` input.

    Families:
        `longest-side-pad` (SAM and most of its relatives): RGB, resized to fit `image_size` with
            `int(side * scale + 0.5)`, so that in a square the longest side fills it; padded at the
            bottom and right with the pixel mean, which the normalisation inside the graph turns
            into zero. Source:
            segment-anything, `segment_anything/utils/transforms.py` and `modeling/sam.py`.
        `squash` (EfficientSAM): RGB, both sides resized to `image_size` without antialiasing,
            aspect ratio not kept, no padding. Source: EfficientSAM,
            `efficient_sam/efficient_sam.py`.
        `corner` (AnyLabeling, rembg): RGB, scaled from the centre of its top left pixel to fit
            `image_size`, without antialiasing; black where it has no pixels. Source: `encode` in
            AnyLabeling, `services/auto_labeling/sam_onnx.py`; rembg, `sessions/sam.py`.
        `longest-side-floor` (Transformers.js): as `longest-side-pad`, but the sides are rounded to
            two digits and then down; normalised outside the graph, then padded with zeros. Source:
            transformers.js, `image_processors_utils.js`.
        `longest-side-linear` (X-AnyLabeling for EdgeSAM): as `longest-side-pad`, but resized in
            OpenCV's fixed point without antialiasing, and padded inside the graph. Source:
            X-AnyLabeling, `services/auto_labeling/__base__/sam.py`, `EdgeSAMONNX`.
        `whole` (X-AnyLabeling for EfficientViT-SAM): RGB in its own size. The graph resizes and
            pads it as `longest-side-pad`. Source: X-AnyLabeling,
            `services/auto_labeling/efficientvit_sam.py`.
        `letterbox` (FastSAM): RGB, resized to fit `image_size`, centred, filled with grey 114.
            Source: ultralytics as FastSAM uses it.

    Attributes:
        image_size: Size of the graph's input.
        prompt_size: Size of the frame of prompts and masks. It equals `image_size` except for
            EfficientViT-SAM-L: 512 pixels of input, prompts in 1024.
        pixel_mean, pixel_std: On the scale 0-255; the graph subtracts the mean and divides by the
            standard deviation, but for `longest-side-floor`.
    """

    family: Literal[
        "longest-side-pad",
        "squash",
        "corner",
        "longest-side-floor",
        "longest-side-linear",
        "whole",
        "letterbox",
    ]
    image_size: Size
    prompt_size: Size
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
    """One prompt: any number of points, at most one box, at most one mask.

    Coordinates are (x, y) in pixels. They refer to the original image after EXIF rotation, or to
    the model frame after `images.prompt_to_model`.
    """

    points: tuple[Point, ...] = ()
    box: tuple[float, float, float, float] | None = None
    mask_input: Float32 | None = field(default=None, compare=False)
    """Mask logits float32 of an earlier prediction, or None."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The inputs of one component before preprocessing.

    Attributes:
        image: Original image after EXIF rotation, uint8 HxWx3 RGB.
        embeddings: `image_embeddings` float32 1x256xHxW, for the decoder.
        prompt: Prompt in pixels of the prompt frame, for the decoder.
        positions: `image_positional_embeddings` float32 1x256xHxW, for a decoder that takes them.
    """

    image: NDArray[np.uint8]
    embeddings: Float32 | None = None
    prompt: Prompt | None = None
    positions: Float32 | None = None

    def encoded(self, outputs: Feeds) -> Sample:
        """Return the sample with the outputs of an encoder."""
        return replace(self, embeddings=outputs[EMBEDDINGS], positions=outputs.get(POSITIONS))


@dataclass(frozen=True, kw_only=True)
class PromptSupport:
    """Which prompts a model supports; any other prompt raises `PromptError`.

    Attributes:
        negative_points: Whether background points (label 0) are supported.
        max_points: Maximum number of points in a prompt; a box counts as two. None: no limit.
        slots: Number of points in the input of a decoder with fixed shapes; unused slots have
            label -2. None for a decoder with dynamic shapes, or for a model with another rule.
    """

    negative_points: bool = True
    box: bool = True
    points_with_box: bool = True
    mask: bool = True
    max_points: int | None = None
    slots: int | None = None


@dataclass(frozen=True, kw_only=True)
class MaskSet:
    """Which decoder outputs hold the masks, and how logits become masks.

    Attributes:
        single: Index of the single-mask output; empty if the model has none.
        multimask: Indices of the multimask outputs, which are ranked by score.
        threshold: A pixel belongs to the mask if its logit is greater.
        low_res_size: Size of the mask logits.
        score: Name of the output tensor that ranks the masks.
        upscale: `frame-bilinear`: bilinear to the prompt frame, padding cut off, bilinear to the
            original size. `bicubic`: directly to the original size. `corner`: bilinear to the
            original size, undoing the preprocessing `corner`. `none`: the graph gives them at
            original size.
        read: Takes a decoder's outputs; returns them as SAM names and shapes them, where an app's
            layout does otherwise: `low_res_masks` BxKxHxW and `score` BxK.
    """

    single: tuple[int, ...]
    multimask: tuple[int, ...]
    threshold: float
    low_res_size: Size
    score: str = "iou_predictions"
    upscale: Literal["frame-bilinear", "bicubic", "corner", "none"] = "frame-bilinear"
    read: Callable[[Feeds], Feeds] | None = None

    def of(self, outputs: Feeds) -> Feeds:
        """Return a decoder's outputs as SAM names and shapes them."""
        return outputs if self.read is None else self.read(outputs)
