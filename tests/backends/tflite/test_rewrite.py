"""The two operations that are replaced before the conversion."""

from __future__ import annotations

import warnings

import pytest

pytest.importorskip("torch")
pytest.importorskip("litert_torch")
import torch
from torch import Tensor, fx, nn
from torch.nn.functional import interpolate

from effsam_export.backends.tflite import rewrite as tflite_rewrite

pytestmark = pytest.mark.backend

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import litert_torch  # noqa: F401  # registers `torch.ops.tfl`


class Stretch(nn.Module):
    """Bicubic to another size, by size or by factor."""

    def __init__(self, size: tuple[int, int] | None, factor: float | None, align: bool) -> None:
        super().__init__()
        self.size, self.factor, self.align = size, factor, align

    def forward(self, x: Tensor) -> Tensor:
        return interpolate(
            x, size=self.size, scale_factor=self.factor, mode="bicubic", align_corners=self.align
        )


class Largest(nn.Module):
    """Keep the values of each row from the k-th largest on, as Expedit-SAM does."""

    def forward(self, x: Tensor) -> Tensor:
        minimum = x.topk(3, dim=2).values[..., -1:]
        return torch.where(x >= minimum, x, torch.zeros_like(x))


def trace(module: nn.Module, *shape: int) -> fx.GraphModule:
    with torch.no_grad():
        program = torch.export.export(module.eval(), (torch.zeros(shape),))
    traced: fx.GraphModule = program.module()
    return traced


def kinds(module: fx.GraphModule) -> set[str]:
    return {str(n.target) for n in module.graph.nodes if n.op == "call_function"}


@pytest.mark.parametrize(
    ("size", "factor", "align"),
    [
        (None, 2.0, False),  # EdgeSAM
        ((64, 64), None, False),  # EfficientViT-SAM
        ((20, 37), None, False),
        ((13, 9), None, False),  # smaller
        ((40, 40), None, True),
    ],
)
def test_bicubic_gives_the_same_numbers(
    size: tuple[int, int] | None, factor: float | None, align: bool
) -> None:
    x = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    traced = trace(Stretch(size, factor, align), *x.shape)
    wanted = traced(x)
    assert len(tflite_rewrite.apply(traced)) == 1
    found = traced(x)
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=0, atol=3e-6)
    assert kinds(traced) <= {"aten.matmul.default", "aten.transpose.int"}


def test_rows_of_a_resize_sum_to_one() -> None:
    matrix = tflite_rewrite.weights(16, 32, align_corners=False)
    assert matrix.shape == (16, 32)
    torch.testing.assert_close(matrix.sum(0), torch.ones(32))
    assert bool((matrix < 0).any())


def test_topk_becomes_topk_v2() -> None:
    x = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(0))
    traced = trace(Largest(), *x.shape)
    wanted = traced(x)
    assert len(tflite_rewrite.apply(traced)) == 1
    assert "tfl.topk_v2.default" in kinds(traced)
    assert "aten.topk.default" not in kinds(traced)
    torch.testing.assert_close(traced(x), wanted, rtol=0, atol=0)


def test_topk_along_another_axis_is_refused() -> None:
    class Columns(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.topk(2, dim=1).values

    traced = trace(Columns(), 1, 5, 8)
    with pytest.raises(AssertionError):
        tflite_rewrite.apply(traced)


def test_other_operations_are_not_changed() -> None:
    traced = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU()), 1, 3, 8, 8)
    before = str(traced.graph)
    assert tflite_rewrite.apply(traced) == ()
    assert str(traced.graph) == before
