"""EfficientViT-SAM's export form: no batch norms, and nothing summed or squared past FP16."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from effsam_export.models.efficientvit import (
    ATTENTION_EPS,
    HEAD_DIM,
    EfficientViTEncoder,
    LinearAttention,
    LiteMLA,
)
from effsam_export.models.folding import fold_batch_norms
from effsam_export.models.sam.norm_folds import NECK_FOLD, scaled

ATTENTION_FOLD = 2.0**6
"""Power of two taken out of queries and of keys in the export form.

Linear attention divides a sum over all tokens and channels (256 to 1024 times 32 products) by one
of the same kind: numerator and denominator overflow together in FP16, and Inf / Inf is NaN. With
2**-12 in both they are two to eight means, and the quotient is the same. Not more: where numbers
below 6.1e-5 are zero, 2**-16 lost small queries and keys (embedding error 0.75 instead of 0.05).
"""

LAST_CONV = "neck.output_ops.0.op_list.0.conv"
"""The convolution in front of the encoder's last norm."""


class FoldedAttention(LinearAttention):
    """The same for folded queries and keys.

    Where eps is nothing (FP16) a divisor of zero becomes one: the numerator is zero as well.
    """

    def divisor(self, total: Tensor) -> Tensor:
        total = total + ATTENTION_EPS / ATTENTION_FOLD**2
        return total + (total == 0).to(total.dtype)


class ExportLiteMLA(LiteMLA):
    """The same attention with a power of two out of queries and keys, at no cost.

    Given: ``(v k^T q) / (1 k^T q + eps)``
    Result: ``(v k'^T q') / (1 k'^T q' + eps / fold**2)`` with q' = q / fold, k' = k / fold

    The factors are in the weights of `qkv`: the aggregation behind it is linear and mixes no query
    with a key or value, and ReLU lets positive factors through. FP32 results stay the same to the
    bit.
    """

    def __init__(self, attention: LiteMLA) -> None:
        nn.Module.__init__(self)
        self.qkv = deepcopy(attention.qkv)
        self.aggreg = attention.aggreg
        self.attention = FoldedAttention()
        self.proj = attention.proj
        weight = attention.qkv.conv.weight.detach()
        # Per head: 32 queries, 32 keys, 32 values.
        factors = torch.ones(3, HEAD_DIM)
        factors[:2] = 1.0 / ATTENTION_FOLD
        repeated = factors.reshape(-1).repeat(len(weight) // (3 * HEAD_DIM))
        self.qkv.conv.weight = nn.Parameter(
            weight * repeated.reshape(-1, 1, 1, 1), requires_grad=False
        )


def export_form(encoder: nn.Module) -> nn.Module:
    """A twin for export that shares all weights it does not fold; the encoder stays as it is.

    Given: ``y = conv(x)`` at the end of the neck, ``norm(y)`` with eps
    Result: ``y = conv(x) / 64``, ``norm(y)`` with eps / 64**2

    The authors put FP16's empty masks down to layer norms (mit-han-lab/efficientvit#142), and this
    is the encoder's only one. A power of two, so FP32 results do not change.
    """
    assert isinstance(encoder, EfficientViTEncoder)
    twin = fold_batch_norms(encoder)
    conv = twin.get_submodule(LAST_CONV)
    assert isinstance(conv, nn.Conv2d)
    folded, norm = scaled(conv, encoder.norm, 1 / NECK_FOLD)
    # The twin has modules of its own, down to each parameter: the encoder stays as it is.
    twin.set_submodule(LAST_CONV, folded)
    twin.set_submodule("norm", norm)
    for name, module in list(twin.named_modules()):
        if isinstance(module, LiteMLA):
            twin.set_submodule(name, ExportLiteMLA(module))
    return twin
