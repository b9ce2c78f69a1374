"""The conversions of `torch_ops`, compared with PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("coremltools")
pytest.importorskip("torch")
import torch
from torch import Tensor, nn

from effsam_export.backends.coreml import backend as coreml
from effsam_export.backends.coreml import torch_ops
from effsam_export.spec.model import ComponentSpec
from effsam_export.spec.stages import Graph
from effsam_export.spec.tensors import TensorSpec
from tests.backends.coreml import tools
from tests.graph.passes.tools import numbers

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.backend


class Resize(nn.Module):
    """Bicubic, by size or by factor."""

    def __init__(
        self, size: tuple[int, int] | None, factor: float | None, *, align_corners: bool
    ) -> None:
        super().__init__()
        self.size, self.factor, self.align_corners = size, factor, align_corners

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(
            x,
            size=self.size,
            scale_factor=self.factor,
            mode="bicubic",
            align_corners=self.align_corners,
        )


class Renamed(nn.Module):
    """An operation whose result has two names."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.aten.alias(x * 2) + x  # type: ignore[no-any-return]


class Gelu(nn.Module):
    """GELU, exact or by tanh: 5e-4 apart at most."""

    def __init__(self, approximate: str) -> None:
        super().__init__()
        self.approximate = approximate
        self.weight = nn.Parameter(torch.linspace(1, 2, 401))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(x * self.weight, approximate=self.approximate)


def run(module: nn.Module, x: Tensor, folder: Path) -> np.ndarray:
    """Return the output of the saved FP32 package for `x`."""
    with torch.inference_mode():
        result = module(x)
    component = ComponentSpec(
        name="encoder",
        inputs=(TensorSpec(name="x", shape=tuple(x.shape)),),
        outputs=(TensorSpec(name="y", shape=tuple(result.shape)),),
        wrap=lambda m: m,
        example=lambda: {"x": x},
        feeds=lambda *_: {},
        reference=lambda *_: {},
    )
    program = tools.write_program(module.eval(), component, folder / "p.pt2")
    graph = Graph(component=component, path=folder / "absent.onnx", opset=18, program=program)
    artifact = tools.lower(graph, folder / "out", "fp32")
    return coreml.open_session(artifact).run({"x": x.numpy()})["y"]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("size", "factor"),
    [((16, 20), None), ((5, 3), None), ((7, 9), None), (None, 2.0), (None, 1.5)],
    ids=["up", "down", "one of each", "twice", "one and a half times"],
)
def test_bicubic(
    size: tuple[int, int] | None, factor: float | None, align_corners: bool, tmp_path: Path
) -> None:
    x = torch.from_numpy(numbers(1, 3, 8, 9)) * 50 + 100
    module = Resize(size, factor, align_corners=align_corners)
    found = run(module, x, tmp_path)
    np.testing.assert_allclose(found, module(x).numpy(), rtol=0, atol=2e-4)


def test_bicubic_is_two_products(tmp_path: Path) -> None:
    artifact = tools.lower(tools.encoder_graph(tmp_path), tmp_path / "out")
    assert artifact.ops["matmul"] == 2


@pytest.mark.parametrize("size", [1, 5, 64])
def test_rows_of_a_resize_sum_to_one(size: int) -> None:
    matrix = torch_ops.resize_matrix(16, size=size, scale=None, align_corners=False)
    assert matrix.shape == (size, 16)
    assert matrix.dtype == np.float32
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)


def test_resize_to_the_same_size_is_the_identity() -> None:
    matrix = torch_ops.resize_matrix(9, size=9, scale=None, align_corners=False)
    np.testing.assert_array_equal(matrix, np.eye(9, dtype=np.float32))


def test_alias(tmp_path: Path) -> None:
    x = torch.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(run(Renamed(), x, tmp_path), 3 * x.numpy())


def test_registering_twice() -> None:
    torch_ops.register()
    torch_ops.register()


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_keeps_its_approximation(approximate: str, tmp_path: Path) -> None:
    x = torch.linspace(-5, 5, 401).reshape(1, 401)
    module, other = Gelu(approximate), Gelu({"none": "tanh", "tanh": "none"}[approximate])
    found = run(module, x, tmp_path)
    with torch.inference_mode():
        wanted, not_wanted = module(x).numpy(), other(x).numpy()
    np.testing.assert_allclose(found, wanted, atol=2e-6)
    assert np.abs(found - not_wanted).max() > 2e-4
