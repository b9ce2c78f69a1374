"""Converted torch modules compute the same as PyTorch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

pytest.importorskip("coremltools")

from effsam_export.backends.coreml.mil import evaluate, read
from tests.backends.coreml.mil.building import convert

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.backend

NO_GPU_NOISE = 2e-5
"""FP32 noise relative to the largest output: the two sum in another order."""

HALF_NOISE = 2e-2


class Residual(nn.Module):
    """A convolutional block with squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.grow = nn.Conv2d(4, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.gate = nn.Conv2d(8, 8, 1)
        self.shrink = nn.ConvTranspose2d(8, 4, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.gelu(self.norm(self.grow(x)))
        inner = functional.relu(self.depth(inner))
        inner = inner * torch.sigmoid(self.gate(inner.mean((2, 3), keepdim=True)))
        grown: Tensor = self.shrink(inner)
        return x + grown


class Attention(nn.Module):
    """Multi-head attention with a bias per offset, over windows of a padded image."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(12)
        self.qkv = nn.Linear(12, 36)
        self.out = nn.Linear(12, 12)
        self.bias = nn.Parameter(torch.randn(3, 9, 9))

    def forward(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, (0, 0, 0, 1, 0, 1))
        windows = padded.reshape(1, 2, 3, 2, 3, 12).permute(0, 1, 3, 2, 4, 5).reshape(4, 9, 12)
        q, k, v = self.qkv(self.norm(windows)).reshape(4, 9, 3, 3, 4).permute(2, 0, 3, 1, 4)
        weights = ((q @ k.transpose(-1, -2)) / math.sqrt(4.0) + self.bias).softmax(-1)
        mixed = self.out((weights @ v).transpose(1, 2).reshape(4, 9, 12))
        back = mixed.reshape(1, 2, 2, 3, 3, 12).permute(0, 1, 3, 2, 4, 5).reshape(1, 6, 6, 12)
        kept: Tensor = back[:, :5, :5]
        return x + kept


class Pyramid(nn.Module):
    """Resizing, pooling, joining, and a norm over channels written out."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        small = functional.max_pool2d(x, 3, 1, 1)
        large = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        near = functional.interpolate(small, scale_factor=2.0, mode="nearest")
        both = torch.cat((large, near), 1)
        centred = both - both.mean(1, keepdim=True)
        spread = centred.pow(2).mean(1, keepdim=True)
        return self.weight * centred / torch.sqrt(spread + 1e-6)


class Picker(nn.Module):
    """Labels that choose embeddings, as SAM's prompt encoder does."""

    def __init__(self) -> None:
        super().__init__()
        self.points = nn.Embedding(3, 8)
        self.gaussian = nn.Parameter(torch.randn(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        coords, labels = x[..., :2], x[..., 2:]
        angles = 2 * math.pi * ((2 * coords / 10 - 1) @ self.gaussian)
        found = torch.cat((angles.sin(), angles.cos()), -1)
        for index in range(3):
            found = found + self.points.weight[index] * (labels == index - 1)
        return torch.where(labels == -1, torch.zeros_like(found), found)


MODULES = (
    (Residual, (1, 4, 6, 6)),
    (Attention, (1, 5, 5, 12)),
    (Pyramid, (1, 3, 4, 6)),
    (Picker, (1, 4, 3)),
)


def built(kind: type[nn.Module], shape: tuple[int, ...]) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    module = kind().eval()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean = torch.randn(8)
            norm.running_var = torch.rand(8) + 0.5
    x = torch.randn(shape)
    if kind is Picker:
        x[0, :, 2] = torch.tensor([-1.0, 0.0, 1.0, 1.0])
    return module, x


@pytest.mark.parametrize(("half", "noise"), [(False, NO_GPU_NOISE), (True, HALF_NOISE)])
@pytest.mark.parametrize(("kind", "shape"), MODULES, ids=[row[0].__name__ for row in MODULES])
def test_a_converted_module_equals_torch(
    kind: type[nn.Module], shape: tuple[int, ...], half: bool, noise: float, tmp_path: Path
) -> None:
    module, x = built(kind, shape)
    package = convert(module, {"x": x}, ["y"], tmp_path / "module.mlpackage", half)
    found = evaluate.run(read.load(package), {"x": x.numpy()})["y"]
    with torch.no_grad():
        wanted = module(x).numpy()
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() <= noise * np.abs(wanted).max()


@pytest.mark.parametrize(("kind", "shape"), MODULES, ids=[row[0].__name__ for row in MODULES])
def test_an_fp16_package_is_run_in_fp16(
    kind: type[nn.Module], shape: tuple[int, ...], tmp_path: Path
) -> None:
    """The result has FP16 rounding errors, which an FP32 run would not have."""
    module, x = built(kind, shape)
    package = convert(module, {"x": x}, ["y"], tmp_path / "module.mlpackage", half=True)
    found = evaluate.run(read.load(package), {"x": x.numpy()})["y"]
    with torch.no_grad():
        wanted = module(x).numpy()
    assert np.abs(found - wanted).max() > 1e-4 * np.abs(wanted).max()
