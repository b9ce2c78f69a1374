"""SAM-Lightening's encoder as its public code has it, with the authors' parameter names.

Source: Songyanfei/SAM-LIGHTENING (commit 5913ec7), `modeling/image_encoder.py`, registry entry
`DilatedSAM_vit_t`. The code differs from the paper: attention runs across the windows at equal
position, not across the tokens of a window, and only at every second position. This module follows
the code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effsam_export.models.sam.layers import LayerNorm2d, MLPBlock
from effsam_export.models.vit import NORM_EPS, PatchEmbed, from_windows, to_windows

DIM = 384
DEPTH = 6
GLOBAL_BLOCKS = (2, 5)
WINDOW = 14
GRID = 64
NECK_DIM = 256
NUM_HEADS = 3
"""Six divided by the dilation; the scale below is that of six heads."""

SCALE = (DIM // 6) ** -0.5
DILATION = 2


class MHA(nn.Module):
    """Multi-head self-attention on BxNxC, with the parameter names of flash-attn."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.Wqkv = nn.Linear(DIM, 3 * DIM, dtype=dtype)
        self.out_proj = nn.Linear(DIM, DIM, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = (
            t.reshape(b, n, NUM_HEADS, c // NUM_HEADS).transpose(1, 2)
            for t in self.Wqkv(x).chunk(3, dim=-1)
        )
        weights = torch.softmax(q @ (k * SCALE).transpose(-2, -1), dim=-1)
        out: Tensor = self.out_proj((weights @ v).transpose(1, 2).reshape(b, n, c))
        return out


class DilatedAttention(nn.Module):
    """Attention across the first axis of BxHxWxC, at the even positions of each map.

    The odd positions become zero. One more linear layer follows.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.multihead_attn = MHA(dtype)
        self.proj = nn.Linear(DIM, DIM, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        positions = x.to(self.dtype).permute(1, 2, 0, 3).reshape(h * w // DILATION, DILATION, b, c)
        attended = self.multihead_attn(positions[:, 0]).unsqueeze(1)
        # Zeros at the odd positions, by concatenation: assignment to slices does not trace well.
        out = torch.cat([attended, torch.zeros_like(attended)], dim=1)
        out = out.reshape(h, w, b, c).permute(2, 0, 1, 3)
        projected: Tensor = self.proj(out)
        return projected


class Block(nn.Module):
    """Attention and MLP on BxHxWxC, each after a LayerNorm."""

    def __init__(self, window: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(DIM, eps=NORM_EPS)
        self.attn = DilatedAttention(dtype)
        self.norm2 = nn.LayerNorm(DIM, eps=NORM_EPS)
        self.mlp = MLPBlock(DIM, 4 * DIM, nn.GELU)
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[1:3]
        y = self.norm1(x)
        if self.window:
            y = from_windows(self.attn(to_windows(y, self.window)), h, w)
        else:
            y = self.attn(y)
        x = x + y
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class LighteningEncoder(nn.Module):
    """Normalised image 1x3x1024x1024 to image embedding 1x256x64x64.

    Args:
        dtype: Data type of the attention; bfloat16 in the public code.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(DIM)
        self.pos_embed = nn.Parameter(torch.zeros(1, GRID, GRID, DIM))
        self.blocks = nn.ModuleList(
            Block(0 if i in GLOBAL_BLOCKS else WINDOW, dtype) for i in range(DEPTH)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(DIM, NECK_DIM, kernel_size=1, bias=False),
            LayerNorm2d(NECK_DIM),
            nn.Conv2d(NECK_DIM, NECK_DIM, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(NECK_DIM),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.neck(x.permute(0, 3, 1, 2))
        return out
