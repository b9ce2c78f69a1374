"""EfficientSAM's image encoder, with the authors' parameter names: a plain ViT.

Source: yformer/EfficientSAM (commit d525f62), `efficient_sam/efficient_sam_encoder.py`. All blocks
attend to all tokens. Positions are learned for 224 pixels and resized to the grid at every call;
the first one, of a class token, is not used.
"""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor, nn

from effsam_export.models.sam.layers import LayerNorm2d

PATCH = 16
PRETRAINED_GRID = 224 // PATCH
DEPTH = 12
OUT_DIM = 256
NORM_EPS = 1e-6
"""Epsilon of the blocks' LayerNorms; PyTorch's default is 1e-5."""


class PatchEmbed(nn.Module):
    """One strided convolution, for 1024 pixels 1x3x1024x1024 to 1xCx64x64."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=PATCH, stride=PATCH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x)
        return out


class Attention(nn.Module):
    """Multi-head attention on BxNxC, without positional bias."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each B x heads x N x C/heads
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))
        return out


class ExportAttention(nn.Module):
    """The same attention with tensors of at most rank 4, and the scale on the smaller operand.

    Given: ``qkv`` reshaped to B x N x 3 x heads x C/heads, ``(q @ k) * scale``
    Result: ``qkv`` in three parts, ``(q * scale) @ k``
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.scale = attention.scale
        self.qkv = attention.qkv
        self.proj = attention.proj

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        heads = (b, n, self.num_heads, c // self.num_heads)
        q, k, v = (t.reshape(heads).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        weights = (q * self.scale @ k.transpose(-2, -1)).softmax(dim=-1)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))
        return out


class Mlp(nn.Module):
    """Two linear layers with expansion 4, on BxNxC."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class Block(nn.Module):
    """Attention and MLP on BxNxC, each after a LayerNorm and with a residual connection."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn: nn.Module = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class ImageEncoderViT(nn.Module):
    """Normalised image, 1x3x1024x1024 for instance, to image embedding 1x256x64x64.

    Args:
        dim: Width of the tokens.
        num_heads: Number of heads of every block.
        image_size: Side of the image in pixels.
    """

    def __init__(self, dim: int, num_heads: int, image_size: int) -> None:
        super().__init__()
        self.grid = image_size // PATCH
        self.patch_embed = PatchEmbed(dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, PRETRAINED_GRID**2 + 1, dim))
        self.blocks = nn.ModuleList(Block(dim, num_heads) for _ in range(DEPTH))
        self.neck = nn.Sequential(
            nn.Conv2d(dim, OUT_DIM, kernel_size=1, bias=False),
            LayerNorm2d(OUT_DIM),
            nn.Conv2d(OUT_DIM, OUT_DIM, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(OUT_DIM),
        )

    def positions(self) -> Tensor:
        """Return the learned positions of the 14x14 grid, resized to the image's, as 1xNxC."""
        learned = self.pos_embed[:, 1:].view(1, PRETRAINED_GRID, PRETRAINED_GRID, -1)
        learned, size = learned.permute(0, 3, 1, 2), (self.grid, self.grid)
        stretched = nn.functional.interpolate(
            learned, size=size, mode="bicubic", align_corners=False
        )
        return stretched.flatten(2).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2) + self.positions()
        for block in self.blocks:
            tokens = block(tokens)
        b, _, c = tokens.shape
        out: Tensor = self.neck(tokens.transpose(1, 2).reshape(b, c, self.grid, self.grid))
        return out


class ExportImageEncoder(nn.Module):
    """The same encoder with constant positions, as few runtimes have bicubic resizing."""

    table: Tensor

    def __init__(self, encoder: ImageEncoderViT) -> None:
        super().__init__()
        self.grid = encoder.grid
        self.patch_embed = encoder.patch_embed
        self.blocks = nn.ModuleList(_export_block(block) for block in encoder.blocks)
        self.neck = encoder.neck
        with torch.no_grad():
            table = encoder.positions().contiguous()
        self.register_buffer("table", table, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2) + self.table
        for block in self.blocks:
            tokens = block(tokens)
        b, _, c = tokens.shape
        out: Tensor = self.neck(tokens.transpose(1, 2).reshape(b, c, self.grid, self.grid))
        return out


def _export_block(block: nn.Module) -> nn.Module:
    """Return a copy of a block that shares its weights, with attention for export."""
    assert isinstance(block, Block)
    assert isinstance(block.attn, Attention)
    twin = copy(block)
    twin._modules = {**block._modules, "attn": ExportAttention(block.attn)}
    return twin
