"""Scaled dot-product attention, an op of iOS 18."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from effsam_export.backends.coreml.mil.ops.activations import softmax

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from effsam_export.backends.coreml.mil.arguments import Arguments


def _attention(args: Arguments) -> Tensor:
    """Return `softmax(query @ key.T / sqrt(width) + mask) @ value`.

    A boolean mask is true for the keys that a query attends to.
    """
    query = args.tensor("query")
    key, value = args.tensor("key", query), args.tensor("value", query)
    steps = args.steps(query)
    scaled = steps.store(steps.widen(query) / math.sqrt(query.shape[-1]))
    scores = steps.store(scaled @ steps.widen(key).transpose(-1, -2))
    if args.has("attn_mask"):
        mask = args.tensor("attn_mask")
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -math.inf)
        else:
            scores = steps.store(scores + steps.widen(args.tensor("attn_mask", query)))
    weights = softmax(scores.to(query.dtype), scores.ndim - 1, args)
    return steps.finish(steps.widen(weights) @ steps.widen(value))


OPS: dict[str, Callable[[Arguments], Tensor]] = {
    "scaled_dot_product_attention": _attention,
}
