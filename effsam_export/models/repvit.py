"""RepViT as RepViT-SAM and EdgeSAM use it, with the authors' parameter names.

Sources: THU-MIG/RepViT (commit 298f420), `sam/repvit_sam/modeling/repvit.py`; chongzhou96/EdgeSAM
(commit b53372c), `edge_sam/modeling/rep_vit.py`. Both are the RepViT classifier with SAM's neck.
They differ in size, in the branches of the depthwise convolutions, and in how they reach a 64x64
map: RepViT-SAM has stride 1 in the last stage, EdgeSAM fuses two stages.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from effsam_export.models.folding import fold_batch_norms
from effsam_export.models.sam.layers import LayerNorm2d

NECK_DIM = 256
SQUEEZE = 0.25
DIVISOR = 8


@dataclass(frozen=True, kw_only=True)
class RepViTSize:
    """Sizes of one RepViT.

    Attributes:
        widths: Channels of the four stages.
        depths: Blocks of each stage, without the down-sampling block before it.
        outer_norm: True: the depthwise branches are summed, then normalised (RepViT-SAM). False:
            each branch is normalised (EdgeSAM).
        fuse: True: the embedding is the third stage plus the upsampled fourth (EdgeSAM). False:
            it is the fourth stage at the third's resolution (RepViT-SAM).
    """

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    outer_norm: bool
    fuse: bool


M1_FUSED = RepViTSize(widths=(48, 96, 192, 384), depths=(3, 3, 15, 2), outer_norm=False, fuse=True)
M2_3 = RepViTSize(widths=(80, 160, 320, 640), depths=(7, 7, 35, 2), outer_norm=True, fuse=False)


class ConvBN(nn.Sequential):
    """Convolution without bias, then batch normalisation (names `c` and `bn`)."""

    def __init__(
        self, in_dim: int, out_dim: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        conv = nn.Conv2d(in_dim, out_dim, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.add_module("c", conv)
        self.add_module("bn", nn.BatchNorm2d(out_dim))


class SqueezeExcite(nn.Module):
    """Channel weights from the mean of the map.

    The hidden width is a quarter, rounded to the nearest multiple of 8 without the usual "not below
    90 %" rule: 48 gives 16, 80 gives 24 (timm's `SqueezeExcite` with `rd_round_limit=0`).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = max(DIVISOR, int(dim * SQUEEZE + DIVISOR / 2) // DIVISOR * DIVISOR)
        self.fc1 = nn.Conv2d(dim, hidden, kernel_size=1)
        self.fc2 = nn.Conv2d(hidden, dim, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(weights)


class SqueezeExciteByRows(nn.Module):
    """Export form of `SqueezeExcite`: the mean of the means of the rows.

    Given: one mean over all pixels of a channel, up to 65536 in the first stage
    Result: a mean over each row, then over the rows; no sum has more than 256 terms

    Runtimes sum sequentially: shorter sums have smaller rounding errors, and fit into FP16.
    """

    def __init__(self, gate: SqueezeExcite) -> None:
        super().__init__()
        self.fc1 = gate.fc1
        self.fc2 = gate.fc2

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(3, keepdim=True).mean(2, keepdim=True)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(mean))))


class RepVGGDW(nn.Module):
    """The sum of a depthwise 3x3 convolution, a depthwise 1x1 convolution and the identity."""

    def __init__(self, dim: int, *, outer_norm: bool) -> None:
        super().__init__()
        self.conv = ConvBN(dim, dim, 3, groups=dim)
        if outer_norm:
            self.conv1: nn.Module = nn.Conv2d(dim, dim, kernel_size=1, groups=dim)
            self.bn: nn.Module = nn.BatchNorm2d(dim)
        else:
            self.conv1 = ConvBN(dim, dim, groups=dim)
            self.bn = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(x) + self.conv1(x) + x)
        return out

    def merged(self) -> nn.Conv2d:
        """Return the three branches and their norms as one convolution.

        Given: ``bn(conv3x3(x) + conv1x1(x) + x)``, depthwise
        Result: one depthwise ``conv3x3(x)``; the 1x1 and the identity are added to the centre of
        the kernel
        """
        branch = self.conv1 if isinstance(self.conv1, nn.Conv2d) else _fused(self.conv1)
        out = _fused(self.conv)
        assert out.bias is not None
        assert branch.bias is not None
        weight = out.weight.detach().clone()
        weight[:, :, 1, 1] += branch.weight.detach()[:, :, 0, 0] + 1
        out.weight = nn.Parameter(weight, requires_grad=False)
        out.bias = nn.Parameter((out.bias + branch.bias).detach(), requires_grad=False)
        return fuse_conv_bn_eval(out, self.bn) if isinstance(self.bn, nn.BatchNorm2d) else out


def _fused(pair: nn.Module) -> nn.Conv2d:
    """Return a `ConvBN` as one convolution."""
    conv, bn = pair.get_submodule("c"), pair.get_submodule("bn")
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(bn, nn.BatchNorm2d)
    return fuse_conv_bn_eval(conv.eval(), bn.eval())


class Residual(nn.Module):
    """`m` with a residual connection."""

    def __init__(self, m: nn.Module) -> None:
        super().__init__()
        self.m = m

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.m(x)
        return out


class RepViTBlock(nn.Module):
    """Token mixer (depthwise) and channel mixer (pointwise, expansion 2) on BxCxHxW."""

    def __init__(self, token_mixer: nn.Sequential, dim: int) -> None:
        super().__init__()
        self.token_mixer = token_mixer
        self.channel_mixer = Residual(
            nn.Sequential(ConvBN(dim, 2 * dim), nn.GELU(), ConvBN(2 * dim, dim))
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.channel_mixer(self.token_mixer(x))
        return out


def downsample(dim: int, out_dim: int, stride: int) -> RepViTBlock:
    """Return the block before a stage, which changes width and resolution."""
    mixer = nn.Sequential(
        ConvBN(dim, dim, 3, stride, groups=dim), nn.Identity(), ConvBN(dim, out_dim)
    )
    return RepViTBlock(mixer, out_dim)


def stage(dim: int, depth: int, *, outer_norm: bool) -> list[RepViTBlock]:
    """Return the blocks of a stage; every second one has squeeze-excite, but never the last."""
    return [
        RepViTBlock(
            nn.Sequential(
                RepVGGDW(dim, outer_norm=outer_norm),
                SqueezeExcite(dim) if i % 2 == 0 and i < depth - 1 else nn.Identity(),
            ),
            dim,
        )
        for i in range(depth)
    ]


class UpsampledConv(nn.Module):
    """A pointwise convolution, then bicubic upsampling by two.

    EdgeSAM's own export scripts use bilinear interpolation, which gives another embedding. Its
    PyTorch predictor, the reference here, is bicubic.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.op_list = nn.ModuleList([nn.Conv2d(dim, out_dim, kernel_size=1, bias=False)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.op_list[0](x)
        return nn.functional.interpolate(x, scale_factor=2.0, mode="bicubic", align_corners=False)


class RepViT(nn.Module):
    """Normalised image 1x3x1024x1024 to image embedding 1x256x64x64."""

    def __init__(self, size: RepViTSize) -> None:
        super().__init__()
        widths, depths = size.widths, size.depths
        stem = nn.Sequential(
            ConvBN(3, widths[0] // 2, 3, 2), nn.GELU(), ConvBN(widths[0] // 2, widths[0], 3, 2)
        )
        self.features = nn.ModuleList(
            [stem, *stage(widths[0], depths[0], outer_norm=size.outer_norm)]
        )
        for i in range(1, 4):
            stride = 1 if i == 3 and not size.fuse else 2
            self.features.append(downsample(widths[i - 1], widths[i], stride))
            self.features.extend(stage(widths[i], depths[i], outer_norm=size.outer_norm))
        self.fuse = size.fuse
        # Index into `features`: the stem, three stages and two down-samplings come before.
        self.third_stage_end = sum(depths[:3]) + 2
        if size.fuse:
            self.fuse_stage2 = nn.Conv2d(widths[2], NECK_DIM, kernel_size=1, bias=False)
            self.fuse_stage3 = UpsampledConv(widths[3], NECK_DIM)
        neck_in = NECK_DIM if size.fuse else widths[3]
        self.neck = nn.Sequential(
            nn.Conv2d(neck_in, NECK_DIM, kernel_size=1, bias=False),
            LayerNorm2d(NECK_DIM),
            nn.Conv2d(NECK_DIM, NECK_DIM, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(NECK_DIM),
        )

    def forward(self, x: Tensor) -> Tensor:
        third = x
        for i, block in enumerate(self.features):
            x = block(x)
            if i == self.third_stage_end:
                third = x
        if self.fuse:
            x = self.fuse_stage2(third) + self.fuse_stage3(x)
        out: Tensor = self.neck(x)
        return out


def export_form(encoder: nn.Module) -> nn.Module:
    """Return a copy for export: one convolution for each depthwise block, and no batch norm.

    It shares all weights that are not folded.
    """
    assert isinstance(encoder, RepViT)
    return fold_batch_norms(_with_merged_branches(encoder))


def _with_merged_branches(module: nn.Module) -> nn.Module:
    if isinstance(module, RepVGGDW):
        return module.merged()
    if isinstance(module, SqueezeExcite):
        return SqueezeExciteByRows(module)
    twin = copy(module)
    children = {name: _with_merged_branches(child) for name, child in module.named_children()}
    twin._modules = {**module._modules, **children}
    return twin
