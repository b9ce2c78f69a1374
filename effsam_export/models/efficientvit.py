"""EfficientViT-SAM's image encoder, with the authors' parameter names.

Source: mit-han-lab/efficientvit (commit de7d773), `models/efficientvit/{backbone,sam}.py` and
`models/nn/ops.py`. The backbone consists of convolutions and linear attention. The outputs of its
last three stages are resized to 64x64, added, and refined by fused inverted bottlenecks.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from effsam_export.models.sam.layers import LayerNorm2d

GRID = 64
NECK_DIM = 256
HEAD_DIM = 32
ATTENTION_EPS = 1e-15
BlockKind = Literal["res", "fmb", "mb", "att5", "att3"]
"""Residual, fused MBConv, MBConv, or linear attention with a 5x5 or 3x3 aggregation."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage: a first block that changes the width and halves the resolution, then `depth` blocks.

    Attributes:
        expand: Expansion factor of the blocks; four times as large in the first block.
        fewer_norms: Only the last convolution of a block has a norm; the others have a bias.
    """

    width: int
    depth: int
    kind: BlockKind
    expand: int
    fewer_norms: bool


@dataclass(frozen=True, kw_only=True)
class EfficientViTSize:
    """Sizes of one EfficientViT-SAM. The first stage is the stem; the neck reads the last three."""

    stages: tuple[Stage, ...]
    neck_depth: int
    neck_expand: int


def large(depths: tuple[int, int, int, int, int], neck_depth: int) -> EfficientViTSize:
    """Return the size of L0, L1 or L2: five stages, 512 pixels."""
    rows: tuple[tuple[int, BlockKind, int, bool], ...] = (
        (32, "res", 1, False),
        (64, "fmb", 4, False),
        (128, "fmb", 4, False),
        (256, "mb", 4, True),
        (512, "att5", 6, True),
    )
    return _size(rows, depths, neck_depth, neck_expand=1)


def extra_large(depths: tuple[int, int, int, int, int, int], neck_depth: int) -> EfficientViTSize:
    """Return the size of XL0 or XL1: six stages, 1024 pixels."""
    rows: tuple[tuple[int, BlockKind, int, bool], ...] = (
        (32, "res", 1, False),
        (64, "fmb", 4, False),
        (128, "fmb", 4, False),
        (256, "fmb", 4, False),
        (512, "att3", 4, True),
        (1024, "att3", 6, True),
    )
    return _size(rows, depths, neck_depth, neck_expand=4)


def _size(
    rows: tuple[tuple[int, BlockKind, int, bool], ...],
    depths: tuple[int, ...],
    neck_depth: int,
    *,
    neck_expand: int,
) -> EfficientViTSize:
    stages = tuple(
        Stage(width=width, depth=depth, kind=kind, expand=expand, fewer_norms=fewer)
        for (width, kind, expand, fewer), depth in zip(rows, depths, strict=True)
    )
    return EfficientViTSize(stages=stages, neck_depth=neck_depth, neck_expand=neck_expand)


class ConvLayer(nn.Module):
    """Convolution, then optional batch norm and tanh-GELU."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        groups: int = 1,
        norm: bool = True,
        bias: bool = False,
        act: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_dim, out_dim, kernel, stride, kernel // 2, groups=groups, bias=bias
        )
        self.norm = nn.BatchNorm2d(out_dim) if norm else nn.Identity()
        self.act = nn.GELU(approximate="tanh") if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out


class ResBlock(nn.Module):
    """Two 3x3 convolutions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = ConvLayer(dim, dim, act=True)
        self.conv2 = ConvLayer(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(self.conv1(x))
        return out


class FusedMBConv(nn.Module):
    """A 3x3 convolution that expands the channels, then a pointwise one that reduces them."""

    def __init__(self, dim: int, out_dim: int, expand: int, *, stride: int, fewer: bool) -> None:
        super().__init__()
        hidden = dim * expand
        self.spatial_conv = ConvLayer(
            dim, hidden, stride=stride, norm=not fewer, bias=fewer, act=True
        )
        self.point_conv = ConvLayer(hidden, out_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.point_conv(self.spatial_conv(x))
        return out


class MBConv(nn.Module):
    """Inverted bottleneck: pointwise, depthwise 3x3, pointwise."""

    def __init__(self, dim: int, out_dim: int, expand: int, *, stride: int, fewer: bool) -> None:
        super().__init__()
        hidden = dim * expand
        self.inverted_conv = ConvLayer(dim, hidden, 1, norm=not fewer, bias=fewer, act=True)
        self.depth_conv = ConvLayer(
            hidden, hidden, stride=stride, groups=hidden, norm=not fewer, bias=fewer, act=True
        )
        self.point_conv = ConvLayer(hidden, out_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.point_conv(self.depth_conv(self.inverted_conv(x)))
        return out


class LinearAttention(nn.Module):
    """ReLU attention in linear time; queries, keys and values are B x heads x 32 x N."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = torch.relu(q), torch.relu(k)
        # A row of ones below v sums k, so that one product gives numerator and denominator.
        v = nn.functional.pad(v, (0, 0, 0, 1), value=1.0)
        out = (v @ k.transpose(-1, -2)) @ q
        return out[:, :, :-1] / self.divisor(out[:, :, -1:])

    def divisor(self, total: Tensor) -> Tensor:
        """Return the denominator of the attention, kept above zero."""
        return total + ATTENTION_EPS


class LiteMLA(nn.Module):
    """Multi-scale linear attention with a ReLU kernel on BxCxHxW."""

    def __init__(self, dim: int, scale: int) -> None:
        super().__init__()
        inner = 3 * dim
        self.qkv = ConvLayer(dim, inner, 1, norm=False)
        self.aggreg = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(inner, inner, scale, padding=scale // 2, groups=inner, bias=False),
                    nn.Conv2d(inner, inner, 1, groups=3 * (dim // HEAD_DIM), bias=False),
                )
            ]
        )
        self.attention = LinearAttention()
        self.proj = ConvLayer(2 * dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        qkv = self.qkv(x)
        qkv = torch.cat([qkv, *(op(qkv) for op in self.aggreg)], dim=1)
        q, k, v = qkv.reshape(b, -1, 3 * HEAD_DIM, h * w).chunk(3, dim=2)
        out = self.attention(q, k, v)
        projected: Tensor = self.proj(out.reshape(b, -1, h, w))
        return projected


class Residual(nn.Module):
    """`main` with an optional shortcut around it."""

    def __init__(self, main: nn.Module, *, shortcut: bool = True) -> None:
        super().__init__()
        self.main = main
        self.has_shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.main(x)
        return x + out if self.has_shortcut else out


class EfficientViTBlock(nn.Module):
    """Linear attention, then an inverted bottleneck."""

    def __init__(self, dim: int, scale: int, expand: int) -> None:
        super().__init__()
        self.context_module = Residual(LiteMLA(dim, scale))
        self.local_module = Residual(MBConv(dim, dim, expand, stride=1, fewer=True))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.local_module(self.context_module(x))
        return out


class OpSequential(nn.Module):
    """A sequence of layers named `op_list`."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.op_list = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.op_list:
            x = layer(x)
        return x


def block(stage: Stage) -> nn.Module:
    """Return a block that keeps the shape."""
    dim, fewer = stage.width, stage.fewer_norms
    match stage.kind:
        case "res":
            return Residual(ResBlock(dim))
        case "fmb":
            return Residual(FusedMBConv(dim, dim, stage.expand, stride=1, fewer=fewer))
        case "mb":
            return Residual(MBConv(dim, dim, stage.expand, stride=1, fewer=fewer))
        case "att5":
            return EfficientViTBlock(dim, 5, stage.expand)
        case "att3":
            return EfficientViTBlock(dim, 3, stage.expand)


def first_block(dim: int, stage: Stage) -> nn.Module:
    """Return the block that halves the resolution and changes the width."""
    kind = FusedMBConv if stage.kind == "fmb" else MBConv
    main = kind(dim, stage.width, 4 * stage.expand, stride=2, fewer=stage.fewer_norms)
    return Residual(main, shortcut=False)


class Backbone(nn.Module):
    """Normalised image 1x3xSxS to the feature maps of all stages, at S/2, S/4, ..."""

    def __init__(self, stages: tuple[Stage, ...]) -> None:
        super().__init__()
        stem: nn.Module = ConvLayer(3, stages[0].width, stride=2, act=True)
        rows = [[stem]]
        for previous, stage in pairwise(stages):
            rows.append([first_block(previous.width, stage)])
        self.stages = nn.ModuleList(
            OpSequential([*row, *(block(stage) for _ in range(stage.depth))])
            for row, stage in zip(rows, stages, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class UpSample(nn.Module):
    """Resize to 64x64 (bicubic), unless the input has that size."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] == GRID:
            return x
        return nn.functional.interpolate(x, size=(GRID, GRID), mode="bicubic", align_corners=False)


class SamNeck(nn.Module):
    """The last three feature maps, deepest first, to a map 1x256x64x64."""

    def __init__(self, widths: list[int], depth: int, expand: int) -> None:
        super().__init__()
        self.input_ops = nn.ModuleList(
            OpSequential([ConvLayer(width, NECK_DIM, 1), UpSample()]) for width in widths
        )
        self.middle = OpSequential(
            [
                Residual(FusedMBConv(NECK_DIM, NECK_DIM, expand, stride=1, fewer=False))
                for _ in range(depth)
            ]
        )
        last = ConvLayer(NECK_DIM, NECK_DIM, 1, norm=False, bias=True)
        self.output_ops = nn.ModuleList([OpSequential([last])])

    def forward(self, maps: list[Tensor]) -> Tensor:
        first, second, third = (op(x) for op, x in zip(self.input_ops, maps, strict=True))
        out: Tensor = self.output_ops[0](self.middle(first + second + third))
        return out


class EfficientViTEncoder(nn.Module):
    """Normalised image 1x3xSxS (S 512 or 1024) to image embedding 1x256x64x64."""

    def __init__(self, size: EfficientViTSize) -> None:
        super().__init__()
        self.backbone = Backbone(size.stages)
        widths = [stage.width for stage in size.stages[:-4:-1]]
        self.neck = SamNeck(widths, size.neck_depth, size.neck_expand)
        self.norm = LayerNorm2d(NECK_DIM)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.backbone(x)
        out: Tensor = self.norm(self.neck(maps[:-4:-1]))
        return out
