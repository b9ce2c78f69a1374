"""A small encoder with every kind of layer, its files, and recipes for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from effsam_export.backends.tflite import convert as tflite_convert
from effsam_export.backends.tflite.session import InterpreterSession
from effsam_export.spec.int8 import Int8Recipe, LayerOverride
from tests.backends.tflite.tools import component, save_program

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.int8 import Scheme, Treatment
    from effsam_export.spec.stages import Graph
    from effsam_export.spec.tensors import Float32

SIDE, CHANNELS, HEADS = 8, 16, 2
TOKENS = SIDE * SIDE
IMAGE = (1, 3, SIDE, SIDE)
SPEC = component({"image": IMAGE}, {"image_embeddings": (1, TOKENS, CHANNELS)}, "encoder")
SIZES: dict[str, int] = {
    "stem": CHANNELS * 3 * 9,
    "deep": CHANNELS * 9,
    "block.qkv": 3 * CHANNELS * CHANNELS,
    "block.proj": CHANNELS * CHANNELS,
    "block.fc": CHANNELS * CHANNELS,
}
"""Elements of the weights of `Layers`."""
TABLE = HEADS * TOKENS * TOKENS


class Block(nn.Module):
    """Attention with a position bias, and a linear layer after a LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(CHANNELS, 3 * CHANNELS)
        self.proj = nn.Linear(CHANNELS, CHANNELS)
        self.norm = nn.LayerNorm(CHANNELS)
        self.fc = nn.Linear(CHANNELS, CHANNELS)
        self.bias = nn.Parameter(torch.randn(HEADS, TOKENS, TOKENS))

    def forward(self, x: Tensor) -> Tensor:
        split = self.qkv(x).reshape(1, TOKENS, HEADS, 3 * CHANNELS // HEADS).permute(0, 2, 1, 3)
        q, k, v = split.chunk(3, dim=-1)
        attended = torch.softmax(q @ k.transpose(-2, -1) + self.bias, dim=-1) @ v
        x = x + self.proj(attended.transpose(1, 2).reshape(1, TOKENS, CHANNELS))
        done: Tensor = self.fc(self.norm(x))
        return done


class Layers(nn.Module):
    """One layer of each kind that encoders have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.deep = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS)
        self.block = Block()

    def forward(self, image: Tensor) -> Tensor:
        x = self.deep(torch.relu(self.stem(image)))
        done: Tensor = self.block(x.flatten(2).transpose(1, 2))
        return done


def layers() -> Layers:
    """Return the layers with fixed weights, and LayerNorm scales of different magnitudes."""
    torch.manual_seed(0)
    made = Layers().eval()
    with torch.no_grad():
        made.block.norm.weight.copy_(torch.logspace(-2, 2, CHANNELS) * (-1) ** torch.arange(16))
        made.block.norm.bias.copy_(torch.randn(CHANNELS))
    return made


def image(seed: int = 1) -> Float32:
    return np.random.default_rng(seed).normal(size=IMAGE).astype(np.float32)


def converted(folder: Path) -> tuple[Graph, bytes]:
    """The layers as a traced program and as a file in FP32."""
    graph = save_program(layers(), SPEC, folder / "encoder.pt2")
    assert graph.program is not None
    return graph, tflite_convert.convert(graph.program, SPEC)


def recipe(scheme: Scheme = "w8a8", **treated: str) -> Int8Recipe:
    """A recipe; `weight_only="deep stem"` is an override, and so is `keep_float`."""
    asked: dict[str, Treatment] = {"weight_only": "weight_only", "keep_float": "keep_float"}
    return Int8Recipe(
        scheme=scheme,
        overrides=tuple(
            LayerOverride(modules=tuple(v.split()), treatment=asked[k], reason="a test")
            for k, v in treated.items()
        ),
    )


def answer(content: bytes, path: Path) -> Float32:
    path.write_bytes(content)
    return InterpreterSession(path, "encoder", 1).run({"image": image()})["image_embeddings"]


def error(found: Float32, wanted: Float32) -> float:
    """Return the norm of the difference divided by the norm of the expected values."""
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def wanted() -> Float32:
    with torch.no_grad():
        return np.asarray(layers()(torch.from_numpy(image())).numpy())
