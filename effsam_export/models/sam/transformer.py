"""The two-way transformer of SAM's mask decoder, with the authors' parameter names.

Source: facebookresearch/segment-anything, `segment_anything/modeling/transformer.py`.
LayerNorm epsilons are PyTorch's default 1e-5 here (unlike LayerNorm2d's 1e-6).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from effsam_export.models.sam.layers import MLPBlock


class Attention(nn.Module):
    """Multi-head attention with an inner width of `dim // downsample_rate`."""

    def __init__(self, dim: int, num_heads: int, downsample_rate: int = 1) -> None:
        super().__init__()
        inner = dim // downsample_rate
        self.num_heads = num_heads
        self.scale = 1.0 / math.sqrt(inner // num_heads)
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def split_heads(self, x: Tensor) -> Tensor:
        """Return tokens BxNxC as B x heads x N x C/heads."""
        b, n, c = x.shape
        return x.reshape(b, n, self.num_heads, c // self.num_heads).transpose(1, 2)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = self.split_heads(self.q_proj(q))  # B x heads x Nq x C/heads
        k = self.split_heads(self.k_proj(k))
        v = self.split_heads(self.v_proj(v))
        weights = torch.softmax(q @ k.transpose(-2, -1) * self.scale, dim=-1)
        out = (weights @ v).transpose(1, 2).flatten(2)  # B x Nq x C
        projected: Tensor = self.out_proj(out)
        return projected


class TwoWayAttentionBlock(nn.Module):
    """Tokens attend to themselves and to the image; then the image attends to the tokens."""

    def __init__(
        self, dim: int, num_heads: int, mlp_dim: int, *, skip_first_layer_pe: bool
    ) -> None:
        super().__init__()
        self.self_attn = Attention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, num_heads, downsample_rate=2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLPBlock(dim, mlp_dim, nn.ReLU)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, num_heads, downsample_rate=2)
        self.skip_first_layer_pe = skip_first_layer_pe

    def forward(
        self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.skip_first_layer_pe:
            # The first block's queries are already the positional encoding; no residual here.
            queries = self.self_attn(queries, queries, queries)
        else:
            q = queries + query_pe
            queries = queries + self.self_attn(q, q, queries)
        queries = self.norm1(queries)

        queries = queries + self.cross_attn_token_to_image(queries + query_pe, keys + key_pe, keys)
        queries = self.norm2(queries)

        queries = self.norm3(queries + self.mlp(queries))

        keys = keys + self.cross_attn_image_to_token(keys + key_pe, queries + query_pe, queries)
        return queries, self.norm4(keys)


class TwoWayTransformer(nn.Module):
    """`depth` two-way blocks, then an attention from the tokens to the image."""

    def __init__(self, depth: int, dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayAttentionBlock(dim, num_heads, mlp_dim, skip_first_layer_pe=i == 0)
            for i in range(depth)
        )
        self.final_attn_token_to_image = Attention(dim, num_heads, downsample_rate=2)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, image: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Run the blocks and the last attention.

        Args:
            image: Image embedding plus dense prompt, BxCxHxW.
            image_pe: Positional encoding of the grid, BxCxHxW, or 1xCxHxW to be broadcast.
            tokens: Output tokens and sparse prompt, BxNxC.

        Returns:
            The tokens BxNxC and the image as a sequence BxHWxC.
        """
        keys = image.flatten(2).transpose(1, 2)  # B x HW x C
        key_pe = image_pe.flatten(2).transpose(1, 2)
        queries = tokens
        for layer in self.layers:
            queries, keys = layer(queries, keys, tokens, key_pe)
        queries = queries + self.final_attn_token_to_image(queries + tokens, keys + key_pe, keys)
        return self.norm_final_attn(queries), keys
