"""EfficientViT-SAM's encoder for export: batch norms folded, and no overflow in FP16."""

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
from effsam_export.models.sam.scale_folding import NECK_DIVISOR, scale_conv_and_norm

ATTENTION_DIVISOR = 2.0**6
"""Divisor of queries and of keys, a power of two.

Linear attention divides two sums over all tokens and channels. In FP16 both overflow, and
Inf / Inf is NaN. With 2**-12 in both, the quotient is the same. A larger divisor loses small
queries and keys on accelerators that flush subnormal numbers (below 6.1e-5) to zero.
"""

LAST_CONV = "neck.output_ops.0.op_list.0.conv"
"""The convolution before the encoder's last norm."""


class ScaledLinearAttention(LinearAttention):
    """The same attention for divided queries and keys.

    In FP16 the scaled eps is zero. A denominator of zero is then replaced by one, because the
    numerator is zero too.
    """

    def divisor(self, total: Tensor) -> Tensor:
        total = total + ATTENTION_EPS / ATTENTION_DIVISOR**2
        return total + (total == 0).to(total.dtype)


class ExportLiteMLA(LiteMLA):
    """The same attention with queries and keys divided by d = `ATTENTION_DIVISOR`.

    Given: ``(v k^T q) / (1 k^T q + eps)``
    Result: ``(v k'^T q') / (1 k'^T q' + eps / d**2)`` with q' = q / d, k' = k / d

    The factors are folded into the weights of `qkv`. This is exact: the aggregation after it is
    linear and mixes no query with a key or value, and ReLU commutes with positive factors. FP32
    results are equal bit for bit.
    """

    def __init__(self, attention: LiteMLA) -> None:
        nn.Module.__init__(self)
        self.qkv = deepcopy(attention.qkv)
        self.aggreg = attention.aggreg
        self.attention = ScaledLinearAttention()
        self.proj = attention.proj
        weight = attention.qkv.conv.weight.detach()
        # Layout per head: 32 queries, 32 keys, 32 values.
        factors = torch.ones(3, HEAD_DIM)
        factors[:2] = 1.0 / ATTENTION_DIVISOR
        repeated = factors.reshape(-1).repeat(len(weight) // (3 * HEAD_DIM))
        self.qkv.conv.weight = nn.Parameter(
            weight * repeated.reshape(-1, 1, 1, 1), requires_grad=False
        )


def export_form(encoder: nn.Module) -> nn.Module:
    """Return a copy for export that shares all weights that are not folded.

    Given: ``y = conv(x)`` at the end of the neck, ``norm(y)`` with eps
    Result: ``y = conv(x) / 64``, ``norm(y)`` with eps / 64**2

    The authors attribute empty masks in FP16 to layer norms (mit-han-lab/efficientvit#142); this
    is the encoder's only one. FP32 results do not change.
    """
    assert isinstance(encoder, EfficientViTEncoder)
    twin = fold_batch_norms(encoder)
    conv = twin.get_submodule(LAST_CONV)
    assert isinstance(conv, nn.Conv2d)
    folded, norm = scale_conv_and_norm(conv, encoder.norm, 1 / NECK_DIVISOR)
    # The copy has its own modules, so that replacing them leaves the encoder unchanged.
    twin.set_submodule(LAST_CONV, folded)
    twin.set_submodule("norm", norm)
    for name, module in list(twin.named_modules()):
        if isinstance(module, LiteMLA):
            twin.set_submodule(name, ExportLiteMLA(module))
    return twin
