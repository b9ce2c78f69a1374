"""SAM's image encoder, a ViT with window attention and relative positions.

Source: facebookresearch/segment-anything (commit dca509f), `modeling/image_encoder.py`. Parameter
names are the authors'. SlimSAM has the same encoder with other widths, which may differ by block.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from effsam_export.models.sam.layers import LayerNorm2d, MLPBlock
from effsam_export.spec.sizes import divided, sides

if TYPE_CHECKING:
    from collections.abc import Sequence

    from effsam_export.spec.sizes import Size

PATCH = 16
NORM_EPS = 1e-6
"""Epsilon of the blocks' LayerNorms (`build_sam.py`); PyTorch's default is 1e-5."""


class PatchEmbed(nn.Module):
    """One strided convolution: 1x3xHxW to 1 x H/16 x W/16 x C."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=PATCH, stride=PATCH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x).permute(0, 2, 3, 1)
        return out


def relative_table(rel_pos: Tensor, size: int) -> Tensor:
    """Return position vectors of all pairs along one axis, `size` x `size` x C: row q, column k.

    `rel_pos` LxC is learned for the distances -(L-1)/2 to (L-1)/2. For other sizes it is linearly
    interpolated, as in the authors' `get_rel_pos`.
    """
    length = 2 * size - 1
    if rel_pos.shape[0] != length:
        stretched = nn.functional.interpolate(rel_pos.T.unsqueeze(0), size=length, mode="linear")
        rel_pos = stretched[0].T
    at = torch.arange(size, device=rel_pos.device)
    return rel_pos[at[:, None] - at[None, :] + size - 1]


class Attention(nn.Module):
    """Multi-head attention over a BxHxWxC map, with decomposed relative positions (MViTv2)."""

    def __init__(self, dim: int, num_heads: int, inner: int, size: Size) -> None:
        super().__init__()
        head = inner // num_heads
        h, w = sides(size)
        self.num_heads = num_heads
        self.scale = head**-0.5
        self.qkv = nn.Linear(dim, 3 * inner)
        self.proj = nn.Linear(inner, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * h - 1, head))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * w - 1, head))

    def tables(self, h: int, w: int) -> tuple[Tensor, Tensor]:
        """Return relative positions of rows (HxHxC) and of columns (WxWxC)."""
        return relative_table(self.rel_pos_h, h), relative_table(self.rel_pos_w, w)

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, _ = x.shape
        qkv = self.qkv(x).reshape(b, h * w, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.flatten(1, 2).unbind(0)  # each (B * heads) x HW x C
        rows, columns = self.tables(h, w)
        grid = q.reshape(-1, h, w, q.shape[-1])  # positions use q without the scale
        by_row = torch.einsum("bhwc,hkc->bhwk", grid, rows)
        by_column = torch.einsum("bhwc,wkc->bhwk", grid, columns)
        scores = ((q * self.scale) @ k.transpose(-2, -1)).view(-1, h, w, h, w)
        scores = scores + by_row[..., :, None] + by_column[..., None, :]
        weights = scores.view(-1, h * w, h * w).softmax(dim=-1)
        out = (weights @ v).view(b, self.num_heads, h * w, -1).transpose(1, 2)
        projected: Tensor = self.proj(out.reshape(b, h, w, -1))
        return projected


class ExportAttention(nn.Module):
    """The same attention for a map of fixed size, with tensors of at most rank 4.

    Given: gathers and interpolations of `rel_pos_h` and `rel_pos_w` at every call, einsum, rank 5
    Result: two constant tables, batched matrix products
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, attention: Attention, size: Size) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.scale = attention.scale
        self.qkv = attention.qkv
        self.proj = attention.proj
        with torch.no_grad():
            rows, columns = attention.tables(*sides(size))
        # Transposed for the product: H x C x H and W x C x W.
        self.register_buffer("rows", rows.transpose(1, 2).contiguous(), persistent=False)
        self.register_buffer("columns", columns.transpose(1, 2).contiguous(), persistent=False)

    def _heads(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        x = x.reshape(b, n, self.num_heads, c // self.num_heads)
        return x.transpose(1, 2).reshape(b * self.num_heads, n, -1)

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, _ = x.shape
        q, k, v = (self._heads(t) for t in self.qkv(x.reshape(b, h * w, -1)).chunk(3, dim=-1))
        n, c = q.shape[0], q.shape[-1]
        grid = q.reshape(n, h, w, c)
        by_row = grid.transpose(0, 1).reshape(h, n * w, c) @ self.rows
        by_row = by_row.reshape(h, n, w, h).transpose(0, 1).reshape(n, h * w, h, 1)
        by_column = grid.permute(2, 0, 1, 3).reshape(w, n * h, c) @ self.columns
        by_column = by_column.reshape(w, n, h, w).permute(1, 2, 0, 3).reshape(n, h * w, 1, w)
        # Added in the shape of the scores: OpenVINO 2026.4 mistakes a reshape between sum and
        # softmax for attention with a mask of rank 4, and then cannot read its own graph.
        bias = (by_row + by_column).reshape(n, h * w, h * w)
        weights = ((q * self.scale) @ k.transpose(-2, -1) + bias).softmax(dim=-1)
        out = (weights @ v).reshape(b, self.num_heads, h * w, c).transpose(1, 2)
        projected: Tensor = self.proj(out.reshape(b, h * w, -1))
        return projected.reshape(b, h, w, -1)


def to_windows(x: Tensor, size: int) -> Tensor:
    """Return a BxHxWxC map, zero-padded at bottom and right, as (B * n) x size x size x C."""
    b, h, w, c = x.shape
    x = nn.functional.pad(x, (0, 0, 0, -w % size, 0, -h % size))
    rows, columns = -(-h // size), -(-w // size)
    # Columns and channels of a window share an axis: no tensor has more than four axes.
    x = x.reshape(b * rows, size, columns, size * c).transpose(1, 2)
    return x.reshape(b * rows * columns, size, size, c)


def from_windows(windows: Tensor, h: int, w: int) -> Tensor:
    """Return windows from `to_windows` as a map BxHxWxC, without the padding."""
    size, c = windows.shape[1], windows.shape[-1]
    rows, columns = -(-h // size), -(-w // size)
    x = windows.reshape(-1, columns, size, size * c).transpose(1, 2)
    return x.reshape(-1, rows * size, columns * size, c)[:, :h, :w]


class Block(nn.Module):
    """Attention (in windows unless `window` is 0) and MLP on BxHxWxC, each after a LayerNorm."""

    attn: nn.Module

    def __init__(
        self, dim: int, num_heads: int, inner: int, mlp_dim: int, *, window: int, grid: Size
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, num_heads, inner, window or grid)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = MLPBlock(dim, mlp_dim, nn.GELU)
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[1:3]
        y = self.norm1(x)
        if self.window:
            # Padding comes after the norm: padded positions are zero in the input of q, k and v.
            y = from_windows(self.attn(to_windows(y, self.window)), h, w)
        else:
            y = self.attn(y)
        x = x + y
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class ImageEncoderViT(nn.Module):
    """Normalised image 1x3xHxW to image embedding 1 x out_dim x H/16 x W/16.

    Args:
        dim: Width of the tokens.
        depth: Number of blocks.
        num_heads: Number of heads of every block.
        global_blocks: Indices of the blocks with attention over the whole map, not in windows.
        attn_dims: Inner width of each block's attention; default `dim`.
        mlp_dims: Hidden width of each block's MLP; default 4 * `dim`.
        image_size: Size of the image.
        window: Side of a window, in tokens.
        out_dim: Channels of the embedding.
    """

    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        num_heads: int,
        global_blocks: Sequence[int],
        attn_dims: Sequence[int] | None = None,
        mlp_dims: Sequence[int] | None = None,
        image_size: Size = 1024,
        window: int = 14,
        out_dim: int = 256,
    ) -> None:
        super().__init__()
        grid = divided(image_size, PATCH)
        attn_dims = attn_dims or [dim] * depth
        mlp_dims = mlp_dims or [4 * dim] * depth
        self.patch_embed = PatchEmbed(dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, *sides(grid), dim))
        self.blocks = nn.ModuleList(
            Block(
                dim,
                num_heads,
                attn_dims[i],
                mlp_dims[i],
                window=0 if i in global_blocks else window,
                grid=grid,
            )
            for i in range(depth)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(dim, out_dim, kernel_size=1, bias=False),
            LayerNorm2d(out_dim),
            nn.Conv2d(out_dim, out_dim, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(out_dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.neck(x.permute(0, 3, 1, 2))
        return out


def export_form(encoder: nn.Module) -> nn.Module:
    """Return a copy for export that shares all weights, with constant relative positions."""
    assert isinstance(encoder, ImageEncoderViT)
    grid = encoder.pos_embed.shape[1], encoder.pos_embed.shape[2]
    twin = copy(encoder)
    blocks = nn.ModuleList(_export_block(block, grid) for block in encoder.blocks)
    twin._modules = {**encoder._modules, "blocks": blocks}
    return twin


def _export_block(block: nn.Module, grid: Size) -> nn.Module:
    assert isinstance(block, Block)
    assert isinstance(block.attn, Attention)
    twin = copy(block)
    attention = ExportAttention(block.attn, block.window or grid)
    twin._modules = {**block._modules, "attn": attention}
    return twin
