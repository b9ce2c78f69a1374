"""TinyViT's export form: no batch norms, and layer norms that hold in FP16 on any accelerator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effsam_export.models.folding import fold_batch_norms
from effsam_export.models.tiny_vit import Attention, BasicLayer, TinyViT, TinyViTBlock

LOUD_STAGE = 3
"""The stage whose tokens are large: on photographs their squares reach 62,701 and the sums of those
131,167, where FP16 ends at 65,504. In the others they stay below 6,300."""

LOUD_FOLD = 8.0
"""Power of two taken out of that stage's tokens in front of the norm: the squares become 980.

Headroom, not a cure: on the photographs that ship, FP16 with FP32 accumulators is as good without
(`benchmarks/hazards.py`). But the squares are within 4 % of the end, and accumulators in FP16 past
it."""


class TokenNorm(nn.Module):
    """A LayerNorm without its bias, on tokens divided by a power of two.

    Layer normalisation is scale-invariant, so with eps divided by the square it is the same norm.
    """

    def __init__(self, norm: nn.LayerNorm, fold: float) -> None:
        super().__init__()
        self.shape = list(norm.normalized_shape)
        self.weight = norm.weight
        self.factor = 1.0 / fold
        self.eps = norm.eps / fold**2

    def forward(self, x: Tensor) -> Tensor:
        if self.factor != 1.0:
            x = x * self.factor
        return nn.functional.layer_norm(x, self.shape, self.weight, None, self.eps)


class ExportBlock(TinyViTBlock):
    """A block that normalises its tokens before the windows are filled up with zeros.

    Given: zeros, then a norm (which makes its bias of them: 0 / sqrt(0 + eps)), then `qkv`
    Result: a norm without bias, then zeros, then `qkv` with the norm's bias in its own

    The same numbers within FP32's noise. But where an accelerator takes numbers below 6.1e-5 for
    zero, eps (1e-5) is zero, and 0 / 0 in the windows at the edge made the whole embedding NaN.
    """

    def __init__(self, block: TinyViTBlock, fold: float) -> None:
        nn.Module.__init__(self)
        self.window = block.window
        self.norm = TokenNorm(block.attn.norm, fold)
        self.attn = ExportAttention(block.attn)
        self.mlp = block.mlp
        self.local_conv = block.local_conv

    def windows(self, x: Tensor) -> Tensor:
        """Attention inside each window of a BxHxWxC map, on normalised tokens."""
        return super().windows(self.norm(x))


class ExportAttention(Attention):
    """Attention on normalised tokens, with the norm's bias in that of `qkv` and a small index.

    Given: the place in a table of biases for each pair of positions, as INT64
    Result: the same places as INT32, the least that every toolchain takes: those of a window of 14
    were 0.3 MB, 4 % of an INT8 file
    """

    def __init__(self, attention: Attention) -> None:
        nn.Module.__init__(self)
        self.num_heads, self.key_dim = attention.num_heads, attention.key_dim
        self.scale = attention.scale
        self.add_module("norm", nn.Identity())
        self.qkv = folded(attention)
        self.proj = attention.proj
        self.attention_biases = attention.attention_biases
        idxs = attention.attention_bias_idxs.int()
        self.register_buffer("attention_bias_idxs", idxs, persistent=False)

    def bias(self) -> Tensor:
        """Attention bias, heads x N x N."""
        return self.attention_biases[:, self.attention_bias_idxs.long()]


def folded(attention: Attention) -> nn.Linear:
    """A `qkv` for tokens that went through the norm without its bias."""
    qkv, norm = attention.qkv, attention.norm
    found = nn.Linear(qkv.in_features, qkv.out_features)
    with torch.no_grad():
        bias = qkv.weight.double() @ norm.bias.double() + qkv.bias.double()
    found.weight = qkv.weight
    found.bias = nn.Parameter(bias.float(), requires_grad=False)
    return found


def export_form(encoder: nn.Module) -> nn.Module:
    """A twin for export that shares all weights it does not fold; the encoder stays as it is."""
    assert isinstance(encoder, TinyViT)
    twin = fold_batch_norms(encoder)
    layers = twin.get_submodule("layers")
    assert isinstance(layers, nn.ModuleList)
    for stage, layer in enumerate(layers):
        if not isinstance(layer, BasicLayer):
            continue
        fold = LOUD_FOLD if stage == LOUD_STAGE else 1.0
        blocks = list(layer.blocks)
        assert all(isinstance(b, TinyViTBlock) for b in blocks)
        # The twin has modules of its own, down to each parameter.
        layer.blocks = nn.ModuleList(
            ExportBlock(b, fold) for b in blocks if isinstance(b, TinyViTBlock)
        )
    return twin
