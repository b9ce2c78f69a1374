"""EfficientSAM's encoder and decoder components: three masks, six point slots, no mask input.

Importing this module does not import torch.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from effsam_export.models.fixed import one_prompt
from effsam_export.models.sam.components import (
    EMBEDDINGS,
    GRID_STRIDE,
    encoder_example,
    encoder_feeds,
    low_res_size,
)
from effsam_export.spec.model import ComponentSpec
from effsam_export.spec.prompts import MaskSet, Preprocess, PromptSupport
from effsam_export.spec.sizes import divided, sides
from effsam_export.spec.tensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from effsam_export.models.efficient_sam.module import EfficientSam
    from effsam_export.spec.prompts import Sample
    from effsam_export.spec.tensors import Feeds

# Source: yformer/EfficientSAM, `efficient_sam/efficient_sam.py`, there on the scale 0 to 1.
PREPROCESS = Preprocess(
    family="squash",
    image_size=1024,
    prompt_size=1024,
    pixel_mean=(123.675, 116.28, 103.53),
    pixel_std=(58.395, 57.12, 57.375),
)
MAX_POINTS = 6
PROMPTS = PromptSupport(negative_points=False, mask=False, max_points=MAX_POINTS)
# The authors' example thresholds at logits >= 0, SAM at > 0; only a logit of 0 differs.
MASKS = MaskSet(single=(), multimask=(0, 1, 2), threshold=0.0, low_res_size=256, upscale="bicubic")

POINTS = (
    TensorSpec(
        name="point_coords",
        shape=("prompts", MAX_POINTS, 2),
        description="(x, y) in squashed-image pixels; box corners are points too; -1 where empty",
    ),
    TensorSpec(
        name="point_labels",
        shape=("prompts", MAX_POINTS),
        description="1 foreground, 2 box top-left, 3 box bottom-right, -1 empty slot",
    ),
)
SCORES = TensorSpec(
    name="iou_predictions",
    shape=("prompts", 3),
    description="predicted mask quality; the masks are not sorted by it",
)


def slots(sample: Sample) -> tuple[list[tuple[float, float]], list[int]]:
    """Return the points of a prompt, then its box as two points of labels 2 and 3."""
    prompt = sample.prompt
    assert prompt is not None
    coords: list[tuple[float, float]] = [(p.x, p.y) for p in prompt.points]
    labels = [p.label for p in prompt.points]
    if prompt.box is not None:
        coords += [prompt.box[:2], prompt.box[2:]]
        labels += [2, 3]
    return coords, labels


def decoder_feeds(preprocess: Preprocess, sample: Sample) -> Feeds:
    """Return the decoder's inputs for a sample: its points, padded to six.

    Padding points are (-1, -1) of label -1. Source: yformer/EfficientSAM,
    `efficient_sam/efficient_sam.py`, which drops points beyond six; the prompt check rejects them.
    """
    import numpy as np

    del preprocess
    assert sample.embeddings is not None
    coords, labels = slots(sample)
    assert len(labels) <= MAX_POINTS
    missing = MAX_POINTS - len(labels)
    return {
        "image_embeddings": sample.embeddings,
        "point_coords": np.asarray([coords + [(-1.0, -1.0)] * missing], dtype=np.float32),
        "point_labels": np.asarray([labels + [-1] * missing], dtype=np.float32),
    }


def encoder_reference(module: nn.Module, sample: Sample) -> Feeds:
    """Return the embedding of an image, computed by the authors' code path."""
    import torch

    pixels = torch.from_numpy(sample.image.copy()).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        embeddings = as_efficient_sam(module).encode(pixels / 255)
    return {"image_embeddings": embeddings.numpy()}


def decoder_reference(preprocess: Preprocess, module: nn.Module, sample: Sample) -> Feeds:
    """Return three masks and scores of a prompt, computed by the authors' code path."""
    import torch

    coords, labels = slots(sample)
    with torch.inference_mode():
        low_res, iou = as_efficient_sam(module).decode(
            torch.as_tensor(sample.embeddings),
            torch.tensor([coords], dtype=torch.float32),
            torch.tensor([labels]),
            size=sides(preprocess.prompt_size),
        )
    return {"low_res_masks": low_res[:, 1:].numpy(), "iou_predictions": iou[:, 1:].numpy()}


def as_efficient_sam(module: nn.Module) -> EfficientSam:
    """Return the module typed as `EfficientSam`."""
    from effsam_export.models.efficient_sam.module import EfficientSam

    assert isinstance(module, EfficientSam)
    return module


def wrap_encoder(module: nn.Module) -> nn.Module:
    """Return the encoder for export, with normalisation and constant positions."""
    from effsam_export.models.efficient_sam.export import ExportEncoder

    return ExportEncoder(as_efficient_sam(module))


def wrap_decoder(module: nn.Module) -> nn.Module:
    """Return the prompt encoder and mask decoder as one module for export."""
    from effsam_export.models.efficient_sam.export import ExportDecoder

    return ExportDecoder(as_efficient_sam(module))


def decoder_example(preprocess: Preprocess) -> Mapping[str, Any]:
    """Return tracing inputs of the decoder: two prompts, as size 1 is special."""
    import torch

    return {
        "image_embeddings": torch.zeros(1, 256, *_grid(preprocess)),
        "point_coords": torch.zeros(2, MAX_POINTS, 2),
        "point_labels": torch.ones(2, MAX_POINTS),
    }


def embeddings(preprocess: Preprocess) -> TensorSpec:
    """Return the contract of the embedding for a size of the image."""
    return replace(EMBEDDINGS, shape=(1, 256, *_grid(preprocess)))


def _grid(preprocess: Preprocess) -> tuple[int, int]:
    return sides(divided(preprocess.prompt_size, GRID_STRIDE))


def encoder_at(preprocess: Preprocess) -> ComponentSpec:
    """Return the encoder for a size of the image."""
    size = preprocess.image_size
    image = TensorSpec(
        name="image",
        shape=(1, 3, *sides(size)),
        description=f"RGB, 0 to 255, both sides resized to {size} without antialiasing, no padding",
    )
    return ComponentSpec(
        name="encoder",
        inputs=(image,),
        outputs=(embeddings(preprocess),),
        wrap=wrap_encoder,
        example=partial(encoder_example, preprocess),
        feeds=encoder_feeds,
        reference=encoder_reference,
    )


def decoder_at(preprocess: Preprocess) -> ComponentSpec:
    """Return the decoder for a size of the image."""
    low_res = TensorSpec(
        name="low_res_masks",
        shape=("prompts", 3, *sides(low_res_size(preprocess))),
        description="logits",
    )
    return ComponentSpec(
        name="decoder",
        inputs=(embeddings(preprocess), *POINTS),
        outputs=(low_res, SCORES),
        wrap=wrap_decoder,
        example=partial(decoder_example, preprocess),
        feeds=decoder_feeds,
        reference=partial(decoder_reference, preprocess),
        fixed=one_prompt,
    )


ENCODER, DECODER = encoder_at(PREPROCESS), decoder_at(PREPROCESS)
