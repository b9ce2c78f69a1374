"""Models with another number of masks than SAM's four, as fine-tuned decoders have them.

A mask has a token, a network that makes its kernel from the token, and a predicted quality. SAMed
and finetune-SAM have one mask for each class and more; a decoder may also have fewer.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from effsam_export.spec.model import ComponentSpec, ModelSpec

TOKENS = "mask_decoder.mask_tokens.weight"
"""The masks' tokens, [masks, 256]."""
MAX_MASKS = 256


def mask_tokens_of(model: ModelSpec, state: Mapping[str, Tensor]) -> int | None:
    """Return the number of masks of a state dict; None if it is the model's own, or unknown."""
    tokens = state.get(TOKENS)
    if tokens is None or tokens.ndim != 2:
        return None
    count = tokens.shape[0]
    return None if in_number(model, count) is model else count


def in_number(model: ModelSpec, count: int) -> ModelSpec:
    """Return the model with a number of masks; unchanged if it cannot have another one."""
    # Only SAM's decoder has a single mask before the others.
    if model.masks.single != (0,) or not 1 <= count <= MAX_MASKS or count == _masks_of(model):
        return model
    return with_mask_tokens(model, count)


def _masks_of(model: ModelSpec) -> int:
    return len({*model.masks.single, *model.masks.multimask})


def with_mask_tokens(model: ModelSpec, count: int) -> ModelSpec:
    """Return the model with another number of masks.

    As in SAM, the first is the single mask and the others are the multimask set. Only one mask is
    a set of its own.
    """
    own = _masks_of(model)
    masks = replace(
        model.masks,
        single=(0,) if count > 1 else (),
        multimask=tuple(range(1, count)) if count > 1 else (0,),
    )
    build_like = model.build_like
    return replace(
        model,
        masks=masks,
        components=tuple(_component(c, own, count) for c in model.components),
        build=partial(_built, model.build, count),
        build_like=None if build_like is None else partial(_built_like, build_like, count),
    )


def _component(component: ComponentSpec, own: int, count: int) -> ComponentSpec:
    """Return a decoder with another number of masks; another component unchanged."""
    if component.name != "decoder":
        return component
    outputs = tuple(
        replace(t, shape=(t.shape[0], count, *t.shape[2:])) if t.shape[1:2] == (own,) else t
        for t in component.outputs
    )
    return replace(component, outputs=outputs)


def _built(build: Callable[[], nn.Module], count: int) -> nn.Module:
    """Return a module whose decoder has another number of masks, weights not loaded."""
    module = build()
    decoder = module.get_submodule("mask_decoder")
    tokens = decoder.get_submodule("mask_tokens")
    module.mask_decoder = type(decoder)(tokens.weight.shape[1], count - 1)  # type: ignore[index]
    return module.eval()


def _built_like(
    build_like: Callable[[Mapping[str, Tensor]], nn.Module],
    count: int,
    state: Mapping[str, Tensor],
) -> nn.Module:
    return _built(partial(build_like, state), count)
