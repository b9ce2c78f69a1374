"""TinyViT for export: batch norms folded, and layer norms that do not overflow in FP16."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effsam_export.models.folding import fold_batch_norms
from effsam_export.models.tiny_vit import Attention, BasicLayer, TinyViT, TinyViTBlock

LARGE_STAGE = 3
"""The large-magnitude stage: squares of its tokens reach 62,701; FP16 ends at 65,504."""

LARGE_STAGE_DIVISOR = 8.0
"""Divisor of that stage's tokens before the norm, a power of two.

It is headroom: the squares are within 4 % of the largest FP16 number, and FP16 accumulators
overflow without it."""


class TokenNorm(nn.Module):
    """A LayerNorm without its bias, on tokens divided by a power of two.

    Layer normalisation is scale-invariant: with eps divided by the square of the divisor, the
    result is the same.
    """

    def __init__(self, norm: nn.LayerNorm, divisor: float) -> None:
        super().__init__()
        self.shape = list(norm.normalized_shape)
        self.weight = norm.weight
        self.factor = 1.0 / divisor
        self.eps = norm.eps / divisor**2

    def forward(self, x: Tensor) -> Tensor:
        if self.factor != 1.0:
            x = x * self.factor
        return nn.functional.layer_norm(x, self.shape, self.weight, None, self.eps)


class ExportBlock(TinyViTBlock):
    """A block that normalises its tokens before the windows are padded with zeros.

    Given: padding with zeros, a norm (which maps zeros to its bias: 0 / sqrt(0 + eps)), `qkv`
    Result: a norm without bias, padding with zeros, `qkv` whose bias includes the norm's

    The result is equal within FP32 rounding. Accelerators that flush numbers below 6.1e-5 to zero
    have an eps (1e-5) of zero: 0 / 0 in padded windows would make the whole embedding NaN.

    Maps become tokens by moving the channels to the end, and then joining rows and columns. The
    other order leaves LiteRT a transposition on each side, and ONNX Runtime and OpenVINO a copy.
    """

    def __init__(self, block: TinyViTBlock, divisor: float) -> None:
        nn.Module.__init__(self)
        self.window = block.window
        self.norm = TokenNorm(block.attn.norm, divisor)
        self.attn = ExportAttention(block.attn)
        self.mlp = block.mlp
        self.local_conv = block.local_conv

    def windows(self, x: Tensor) -> Tensor:
        """Attend inside each window of a BxHxWxC map, on normalised tokens."""
        return super().windows(self.norm(x))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.windows(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        rows = self.local_conv(x).permute(0, 2, 3, 1)
        b, h, w, c = rows.shape
        tokens = rows.reshape(b, h * w, c)
        tokens = tokens + self.mlp(tokens)
        out: Tensor = tokens.reshape(b, h, w, c).permute(0, 3, 1, 2)
        return out


class ExportAttention(Attention):
    """Attention on normalised tokens, with the norm's bias and the scale of queries in `qkv`.

    Given: for each pair of positions, an INT64 index into the table of biases
    Result: INT32 indices, the smallest type that every toolchain accepts; this halves their size
    """

    def __init__(self, attention: Attention) -> None:
        nn.Module.__init__(self)
        self.num_heads, self.key_dim = attention.num_heads, attention.key_dim
        self.add_module("norm", nn.Identity())
        self.qkv = _folded_qkv(attention)
        self.proj = attention.proj
        self.attention_biases = attention.attention_biases
        idxs = attention.attention_bias_idxs.int()
        self.register_buffer("attention_bias_idxs", idxs, persistent=False)

    def bias(self) -> Tensor:
        """Return the attention bias, heads x N x N."""
        return self.attention_biases[:, self.attention_bias_idxs.long()]

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """Return the scores of queries that `qkv` has scaled."""
        scores: Tensor = q @ k.transpose(-2, -1)
        return scores


def _folded_qkv(attention: Attention) -> nn.Linear:
    """Return `qkv` for the output of the norm without its bias, with scaled queries."""
    qkv, norm = attention.qkv, attention.norm
    layer = nn.Linear(qkv.in_features, qkv.out_features)
    with torch.no_grad():
        bias = qkv.weight.double() @ norm.bias.double() + qkv.bias.double()
        factors = torch.ones(attention.num_heads, 3, attention.key_dim, dtype=torch.float64)
        factors[:, 0] = attention.scale
        weight = qkv.weight.double() * factors.reshape(-1, 1)
        layer.weight = nn.Parameter(weight.float(), requires_grad=False)
        layer.bias = nn.Parameter((bias * factors.flatten()).float(), requires_grad=False)
    return layer


def export_form(encoder: nn.Module) -> nn.Module:
    """Return a copy for export that shares all weights that are not folded."""
    assert isinstance(encoder, TinyViT)
    twin = fold_batch_norms(encoder)
    layers = twin.get_submodule("layers")
    assert isinstance(layers, nn.ModuleList)
    for stage, layer in enumerate(layers):
        if not isinstance(layer, BasicLayer):
            continue
        divisor = LARGE_STAGE_DIVISOR if stage == LARGE_STAGE else 1.0
        blocks = list(layer.blocks)
        assert all(isinstance(b, TinyViTBlock) for b in blocks)
        # The copy has its own modules, so that replacing them leaves the encoder unchanged.
        layer.blocks = nn.ModuleList(
            ExportBlock(b, divisor) for b in blocks if isinstance(b, TinyViTBlock)
        )
    return twin
