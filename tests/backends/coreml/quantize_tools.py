"""A tiny program with every kind of layer, its samples, and its INT8 packages."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from effsam_export.backends.coreml import backend as coreml
from effsam_export.backends.coreml import package as coreml_package
from effsam_export.backends.coreml.mil import read
from effsam_export.spec.int8 import Int8Recipe, LayerOverride, Quantization
from effsam_export.spec.model import ComponentSpec
from effsam_export.spec.stages import Graph
from effsam_export.spec.tensors import TensorSpec
from tests.backends.coreml import tools

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from effsam_export.backends.coreml.mil.program import Program
    from effsam_export.spec.int8 import Treatment
    from effsam_export.spec.stages import Artifact
    from tests.backends.coreml.mil.cases.case import Array

SIDE, WIDTH = 8, 16


def fill(module: nn.Module) -> None:
    """The same weights for every instance."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 4


class Net(nn.Module):
    """Convolution, depthwise convolution, two linear layers, transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.depth = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))
        self.up = nn.ConvTranspose2d(WIDTH, 4, 2, 2)
        fill(self)

    def forward(self, image: Tensor) -> Tensor:
        x = self.depth(self.stem(image / 255 - 0.5).relu())
        tokens = x.flatten(2).transpose(1, 2)
        x = (tokens + self.mlp(tokens)).transpose(1, 2).reshape(x.shape)
        found: Tensor = self.up(x)
        return found


class Twice(nn.Module):
    """Two modules of the same weights, and a layer of a weight too small to be quantized."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 3, 3, padding=1)
        self.two = nn.Conv2d(3, 3, 3, padding=1)
        self.two.weight = self.one.weight
        self.small = nn.Conv2d(3, 3, 1)
        fill(self)

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = self.small(self.two(self.one(image / 255).relu()).relu())
        return found


class Attention(nn.Module):
    """Attention with a head for each colour and a table of biases, followed by a constant."""

    table: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(3)
        self.mix = nn.Conv2d(3, 3, 3, padding=1)
        fill(self)
        table = rng.uniform(-3, 3, (3, SIDE * SIDE, SIDE * SIDE)) * [[[1]], [[2]], [[0.1]]]
        self.register_buffer("table", torch.from_numpy(table.astype(np.float32)))
        self.register_buffer("shift", torch.from_numpy(table[:, :1].astype(np.float32)))

    def forward(self, image: Tensor) -> Tensor:
        x = self.mix(image / 255).flatten(2).unsqueeze(-1)
        weights = (x @ x.transpose(-1, -2) + self.table).softmax(-1)
        found: Tensor = (weights @ x).reshape(image.shape) + self.shift.reshape(image.shape)
        return found


SPEC = ComponentSpec(
    name="encoder",
    inputs=(TensorSpec(name="image", shape=(1, 3, SIDE, SIDE), description="RGB, 0 to 255"),),
    outputs=(TensorSpec(name="image_embeddings", shape=(1, 4, 16, 16), description="values"),),
    wrap=lambda module: module,
    example=lambda: {"image": torch.zeros(1, 3, SIDE, SIDE)},
    feeds=lambda *_: {},
    reference=lambda *_: {},
)


def images(count: int) -> list[Array]:
    """Return different images."""
    rng = np.random.default_rng(7)
    return [rng.uniform(0, 255, (1, 3, SIDE, SIDE)).astype(np.float32) for _ in range(count)]


def write(folder: Path, feeds: list[dict[str, Array]]) -> Path:
    """A folder of samples."""
    folder.mkdir(exist_ok=True)
    for index, sample in enumerate(feeds):
        np.savez(folder / f"{index:04}.npz", **sample)  # type: ignore[arg-type]
    return folder


def graph(folder: Path, module: nn.Module | None = None) -> Graph:
    """A traced module without a recipe."""
    program = tools.write_program((module or Net()).eval(), SPEC, folder / "net.pt2")
    return Graph(component=SPEC, path=folder / "absent.onnx", opset=18, program=program)


def recipe(
    scheme: str = "weight_only", method: str = "minmax", **treatments: Treatment
) -> Int8Recipe:
    """Return a recipe with a scheme and the treatments of some modules; `mlp_0` is `mlp.0`."""
    return Int8Recipe(
        scheme=scheme,  # type: ignore[arg-type]
        method=method,  # type: ignore[arg-type]
        overrides=tuple(
            LayerOverride(modules=(name.replace("_", "."),), treatment=t, reason="For a test.")
            for name, t in treatments.items()
        ),
    )


def lower(
    graph: Graph, folder: Path, chosen: Int8Recipe, samples: Path, **options: str | int | bool
) -> Artifact:
    """Lower a graph with an INT8 recipe, by default for iOS 17."""
    folder.mkdir(parents=True)
    quantized = replace(graph, quantization=Quantization(recipe=chosen, samples=samples))
    options = {"deployment_target": "iOS17", **options}
    return coreml.lower(quantized, tools.target("int8", **options), folder)


def opened(artifact: Artifact, function: str | None = None) -> Program:
    """Read the saved program of an artefact."""
    return read.load(coreml_package.package_of(artifact.files), function)


def constant(program: Program, operation: str, parameter: str) -> Array:
    """Return a constant parameter of the operation with this first output."""
    op = next(op for op in program.operations if op.outputs[0].name == operation)
    bound = op.inputs[parameter][0]
    if isinstance(bound, str):
        made = next(op for op in program.operations if op.outputs[0].name == bound)
        bound = made.inputs["val"][0]
        assert not isinstance(bound, str)
    return np.asarray(bound.data)


def unpacked(program: Program, module: str) -> str:
    """First output of the operation that unpacks the INT8 weight of a module."""
    key = f"p_{module.replace('.', '_')}_weight"
    return next(
        op.outputs[0].name
        for op in program.operations
        if op.kind.startswith("constexpr") and op.outputs[0].name.startswith(key)
    )


def modules_in(program: Program, kind: str) -> set[str]:
    """Return modules whose weight is read through a kind of operation (`const`: not INT8)."""
    made = {o.name: op for op in program.operations for o in op.outputs}
    weights = [op.inputs["weight"][0] for op in program.operations if "weight" in op.inputs]
    names = [w for w in weights if isinstance(w, str) and made[w].kind == kind]
    return {w.removeprefix("p_").split("_weight")[0].replace("_", ".") for w in names}


def paired(program: Program) -> set[str]:
    """Modules whose input is INT8."""
    made = {o.name: op for op in program.operations for o in op.outputs}
    found = set()
    for op in program.operations:
        if "weight" in op.inputs:
            (x,), (w,) = op.inputs["x"], op.inputs["weight"]
            if made[str(x)].kind == "dequantize":
                found.add(str(w).removeprefix("p_").split("_weight")[0].replace("_", "."))
    return found


def as_feeds(pictures: list[Array]) -> list[dict[str, Array]]:
    """Samples of the encoder."""
    return [{"image": picture} for picture in pictures]


def values(module: nn.Module, picture: Array) -> Mapping[str, Array]:
    """Return the input of each layer of a module by path, and the module's output by ``."""
    found: dict[str, Array] = {}
    handles = [
        layer.register_forward_hook(
            lambda _, args, __, path=path: found.update({path: args[0].numpy()})
        )
        for path, layer in module.named_modules()
        if hasattr(layer, "weight")
    ]
    with torch.no_grad():
        found[""] = module(torch.from_numpy(picture)).numpy()
    for handle in handles:
        handle.remove()
    return found
