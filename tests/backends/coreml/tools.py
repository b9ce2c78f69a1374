"""Tiny traced programs for the tests of the Core ML backend."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from effsam_export.backends.coreml import backend as coreml
from effsam_export.config import targets as profiles
from effsam_export.graph import trace
from effsam_export.spec.model import ComponentSpec, KeepFp32
from effsam_export.spec.stages import Artifact, Graph
from effsam_export.spec.tensors import TensorSpec
from tests.graph.passes.tools import Array, numbers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from effsam_export.backends import Options
    from effsam_export.spec.targets import Precision, TargetProfile

WIDTH, MASKS = 32, 600


class Decoder(nn.Module):
    """Two inputs and two outputs, in an order that is not the alphabet's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, MASKS))
        for parameter in self.parameters():
            values = numbers(*parameter.shape) / 7
            parameter.data = torch.from_numpy(values.astype(np.float32))

    def forward(self, point_coords: Tensor, point_labels: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.norm(self.stem(point_coords / 1024))
        masks = (self.head(tokens) * point_labels.unsqueeze(-1)).mean(1)
        return masks, masks.softmax(-1).amax(-1)


class Encoder(nn.Module):
    """Resize an image to half its size bicubically, in grey levels."""

    def forward(self, image: Tensor) -> Tensor:
        grey = (image / 255).mean(1, keepdim=True)
        return nn.functional.interpolate(grey, size=(4, 6), mode="bicubic")


def decoder(slots: int | str) -> ComponentSpec:
    """The contract of `Decoder`."""
    return ComponentSpec(
        name="decoder",
        inputs=(
            TensorSpec(name="point_coords", shape=(1, slots, 2), description="(x, y) in pixels"),
            TensorSpec(name="point_labels", shape=(1, slots), description="1 foreground"),
        ),
        outputs=(
            TensorSpec(name="masks", shape=(1, MASKS), description="logits"),
            TensorSpec(name="iou", shape=(1,), description="predicted quality"),
        ),
        wrap=lambda module: module,
        example=lambda: decoder_feeds(3 if isinstance(slots, str) else slots),
        feeds=unused,  # type: ignore[arg-type]
        reference=unused,  # type: ignore[arg-type]
    )


ENCODER = ComponentSpec(
    name="encoder",
    inputs=(TensorSpec(name="image", shape=(1, 3, 8, 12), description="RGB, 0 to 255"),),
    outputs=(TensorSpec(name="image_embeddings", shape=(1, 1, 4, 6), description="grey"),),
    wrap=lambda module: module,
    example=lambda: {"image": torch.zeros(1, 3, 8, 12)},
    feeds=lambda *_: {},
    reference=lambda *_: {},
)


def unused(*_: object) -> object:
    raise AssertionError("a backend needs only names and shapes")


def decoder_feeds(slots: int) -> dict[str, Tensor]:
    """Return points all over the frame, half of them background."""
    coords = torch.arange(2 * slots, dtype=torch.float32).reshape(1, slots, 2) * 997 % 1024
    return {"point_coords": coords, "point_labels": torch.arange(slots)[None] % 2.0 + 0.5}


def as_arrays(feeds: Mapping[str, Tensor]) -> dict[str, Array]:
    """The same for a session."""
    return {name: value.numpy() for name, value in feeds.items()}


def write_program(module: nn.Module, component: ComponentSpec, path: Path) -> Path:
    """Trace a module and save it."""
    return trace.save(trace.trace(module, component), path)


def decoder_graph(
    folder: Path,
    *,
    slots: int | str = 4,
    further: tuple[int, ...] = (),
    recipe: tuple[KeepFp32, ...] = (),
    about: Mapping[str, str] | None = None,
) -> Graph:
    """Return `Decoder` as a traced graph without its ONNX file, which must not be read."""
    module = Decoder().eval()
    return Graph(
        component=decoder(slots),
        path=folder / "absent.onnx",
        opset=18,
        program=write_program(module, decoder(slots), folder / f"decoder.{slots}.pt2"),
        variants=tuple(
            (n, write_program(module, decoder(n), folder / f"decoder.{n}.pt2")) for n in further
        ),
        recipe=recipe,
        about=about or {},
    )


def encoder_graph(folder: Path) -> Graph:
    """`Encoder` as a traced graph."""
    program = write_program(Encoder().eval(), ENCODER, folder / "encoder.pt2")
    return Graph(component=ENCODER, path=folder / "absent.onnx", opset=18, program=program)


def target(precision: Precision, **options: str | int | bool) -> TargetProfile:
    """Return the `coreml` target with other options."""
    shipped = profiles.load_target("coreml")
    chosen: Options = {**shipped.options, **options}
    return replace(shipped, precision=precision, options=chosen)


def lower(
    graph: Graph, folder: Path, precision: Precision = "fp16", **options: str | int | bool
) -> Artifact:
    """Lower a graph into a new folder."""
    folder.mkdir(parents=True)
    return coreml.lower(graph, target(precision, **options), folder)
