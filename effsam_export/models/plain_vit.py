"""EfficientSAM's image encoder, with the authors' parameter names: a plain ViT.

Source: yformer/EfficientSAM (commit d525f62), `efficient_sam/efficient_sam_encoder.py`. All blocks
attend over the whole 64x64 map. The absolute positions are those of the 224-pixel pretraining.
"""

from __future__ import annotations

import math
from copy import copy

import torch
from torch import Tensor, nn

from effsam_export.models.sam.layers import LayerNorm2d

PATCH = 16
GRID = 64
PRETRAINED_GRID = 224 // PATCH
NORM_EPS = 1e-6
NECK_DIM = 256


class PatchEmbed(nn.Module):
    """One strided convolution: 1x3x1024x1024 to 1xCx64x64."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=PATCH, stride=PATCH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x)
        return out


class Attention(nn.Module):
    """Multi-head attention on BxNxC."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = (
            t.reshape(b, n, self.num_heads, c // self.num_heads).transpose(1, 2)
            for t in self.qkv(x).chunk(3, dim=-1)
        )
        weights = torch.softmax((q @ k.transpose(-2, -1)) * self.scale, dim=-1)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))
        return out


class Mlp(nn.Module):
    """Two linear layers with expansion 4."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def stretched_positions(pos_embed: Tensor) -> Tensor:
    """Positions 1x(1+14*14)xC of the pretraining as 1x64x64xC, without the class token's."""
    side = math.isqrt(pos_embed.shape[1] - 1)
    grid = pos_embed[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, (GRID, GRID), mode="bicubic", align_corners=False)
    return grid.permute(0, 2, 3, 1)


class PlainViT(nn.Module):
    """Normalised image 1x3x1024x1024 to image embedding 1x256x64x64."""

    def __init__(self, dim: int, num_heads: int, depth: int = 12) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + PRETRAINED_GRID**2, dim))
        self.blocks = nn.ModuleList(Block(dim, num_heads) for _ in range(depth))
        self.neck = nn.Sequential(
            nn.Conv2d(dim, NECK_DIM, kernel_size=1, bias=False),
            LayerNorm2d(NECK_DIM),
            nn.Conv2d(NECK_DIM, NECK_DIM, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(NECK_DIM),
        )

    def positions(self) -> Tensor:
        """What is added to the patches, 1x64x64xC."""
        return stretched_positions(self.pos_embed)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).permute(0, 2, 3, 1) + self.positions()
        b, h, w, c = x.shape
        x = x.reshape(b, h * w, c)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.neck(x.reshape(b, h, w, c).permute(0, 3, 1, 2))
        return out

    def export_form(self) -> nn.Module:
        """A twin whose positions are stretched once, here, instead of at every call."""
        twin = copy(self)
        twin.__class__ = StretchedViT
        with torch.no_grad():
            twin._buffers = {**self._buffers, "stretched": self.positions().contiguous()}
        return twin


class StretchedViT(PlainViT):
    """A `PlainViT` with the positions of its 64x64 map as a constant (buffer `stretched`)."""

    stretched: Tensor

    def positions(self) -> Tensor:
        return self.stretched
