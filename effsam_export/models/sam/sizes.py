"""SAM and its relatives with another size of input than that of the official weights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from effsam_export.models.sam.components import (
    GRID_STRIDE,
    decoder_example,
    decoder_feeds,
    encoder_example,
    encoder_feeds,
    image_tensor,
    low_res_size,
)
from effsam_export.spec.sizes import divided, sides

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from effsam_export.spec.model import ComponentSpec, ModelSpec
    from effsam_export.spec.prompts import Preprocess
    from effsam_export.spec.sizes import Size
    from effsam_export.spec.tensors import TensorSpec

    Build = Callable[[Preprocess], nn.Module]


def sam_at(build: Build, model: ModelSpec, size: Size) -> ModelSpec:
    """Return a SAM-like model for another size of input.

    As in the authors' code, whose builders take the size: prompts are in the frame of the input,
    the embedding has a cell for 16 pixels, and the mask logits have a pixel for 4.

    Args:
        build: Returns a new module for a preprocessing, weights not loaded.
        model: The model, of any size.
        size: Its sides are multiples of 16.
    """
    return _with_preprocess(
        build, model, replace(model.preprocess, image_size=size, prompt_size=size)
    )


def encoder_at(build: Build, model: ModelSpec, size: Size) -> ModelSpec:
    """Return a model whose encoder alone has another size of input (EfficientViT-SAM).

    Its neck resizes any map to that of the decoder. The frame of the prompts stays.
    """
    return _with_preprocess(build, model, replace(model.preprocess, image_size=size))


def _with_preprocess(build: Build, model: ModelSpec, preprocess: Preprocess) -> ModelSpec:
    return replace(
        model,
        preprocess=preprocess,
        masks=replace(model.masks, low_res_size=low_res_size(preprocess)),
        components=tuple(_component_at(c, preprocess) for c in model.components),
        build=partial(build, preprocess),
    )


def _component_at(component: ComponentSpec, preprocess: Preprocess) -> ComponentSpec:
    encoder = component.name == "encoder"
    sized_feeds = partial(decoder_feeds, low_res=low_res_size(preprocess))
    return replace(
        component,
        inputs=tuple(_tensor_at(t, preprocess) for t in component.inputs),
        outputs=tuple(_tensor_at(t, preprocess) for t in component.outputs),
        example=partial(encoder_example if encoder else decoder_example, preprocess),
        feeds=encoder_feeds if encoder else sized_feeds,
    )


def _tensor_at(tensor: TensorSpec, preprocess: Preprocess) -> TensorSpec:
    if tensor.name == "image":
        return image_tensor(preprocess)
    sizes = {
        "image_embeddings": divided(preprocess.prompt_size, GRID_STRIDE),
        "mask_input": low_res_size(preprocess),
        "low_res_masks": low_res_size(preprocess),
    }
    if tensor.name not in sizes:
        return tensor
    return replace(tensor, shape=(*tensor.shape[:2], *sides(sizes[tensor.name])))
