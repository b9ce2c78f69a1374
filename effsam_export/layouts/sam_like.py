"""What the layouts share: which models are like SAM, and loading weights with SAM's four masks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from effsam_export.errors import UsageError
from effsam_export.models.sam.components import DECODER_INPUTS, SAM_MASKS, SAM_PREPROCESS
from effsam_export.spec.sizes import text_of
from effsam_export.weights.mask_tokens import TOKENS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from effsam_export.spec.model import ModelSpec

SIDE = 1024
"""Pixels of the input for which the apps are written."""
MASKS = 4


def is_sam_like(model: ModelSpec) -> bool:
    """Return whether a model has SAM's preprocessing, prompts and masks, in any size."""
    masks = model.masks
    return (
        not model.finds_instances
        and model.preprocess.family == SAM_PREPROCESS.family
        and model.component("decoder").inputs[1:3] == DECODER_INPUTS[1:3]
        and (masks.single, masks.multimask) == (SAM_MASKS.single, SAM_MASKS.multimask)
    )


def fault_of(model: ModelSpec, app: str) -> tuple[str, str] | None:
    """Return why an app for SAM at 1024 pixels cannot have a model, and a hint; None if it can."""
    if not is_sam_like(model):
        return (
            f"{app} takes models with SAM's prompts and masks, and `{model.name}` has others",
            "export mobile-sam, edge-sam, repvit-sam, slim-sam-77 or sam-vit-b, or for target onnx",
        )
    size = model.preprocess.image_size
    if size == SIDE:
        return None
    can_be_changed = model.sizes is not None and model.sizes.own == SIDE
    return (
        f"{app} takes models with an input of {SIDE} pixels, and this `{model.name}` has "
        f"{text_of(size)}",
        f"give --image-size {SIDE}" if can_be_changed else "export it for target onnx",
    )


def with_four_masks(model: ModelSpec, app: str) -> ModelSpec:
    """Return a model that refuses weights with another number of masks than SAM's."""
    return replace(model, build_like=partial(_built, model, app))


def _built(model: ModelSpec, app: str, state: Mapping[str, Tensor]) -> nn.Module:
    """Return a module for a state dict.

    Raises:
        UsageError: The state dict has another number of masks.
    """
    tokens = state.get(TOKENS)
    if tokens is not None and tokens.ndim == 2 and tokens.shape[0] != MASKS:
        raise UsageError(
            f"{app} takes models with SAM's {MASKS} masks for a prompt, and this checkpoint has "
            f"{tokens.shape[0]}",
            hint="export it for target onnx",
        )
    return model.build() if model.build_like is None else model.build_like(state)
