"""Ranges on real inputs, from inside norms and reductions too."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")
import torch
from torch import Tensor, nn

from effsam_export.precision.ranges import Range, Ranges, measure
from tests.precision.tools import traced

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.backend


def ranges_of(of: nn.Module | Callable[[Tensor], Tensor], *inputs: Tensor) -> Ranges:
    """Ranges over some inputs of one shape."""
    program = traced(of, inputs[0])
    ranges: Ranges = {}
    for x in inputs:
        measure(program, {"x": x}, ranges)
    return ranges


def test_outputs_are_those_of_the_module() -> None:
    norm = nn.LayerNorm(3)
    x = torch.tensor([[1.0, 2.0, 4.0]])

    (out,) = measure(traced(norm, x), {"x": x.numpy()}, {})

    assert torch.equal(out, norm(x))


def test_largest_and_smallest_are_absolute() -> None:
    found = ranges_of(lambda x: x * 2, torch.tensor([-5.0, 0.5, 3.0]))

    assert found == {"mul": Range(largest=10.0, smallest=1.0)}


def test_inputs_widen_the_range() -> None:
    found = ranges_of(lambda x: x * 2, torch.tensor([1.0]), torch.tensor([-8.0]))

    assert found == {"mul": Range(largest=16.0, smallest=2.0)}


def test_integers_and_booleans_have_no_range() -> None:
    def function(x: Tensor) -> Tensor:
        return (x > 0).to(torch.int64) + 1

    assert ranges_of(function, torch.ones(2)) == {}


def test_infinity_is_reported() -> None:
    found = ranges_of(lambda x: 1 / x, torch.tensor([0.0, 2.0]))

    assert found["reciprocal"].largest == math.inf
    assert not found["reciprocal"].finite


def test_infinity_is_not_forgotten() -> None:
    found = ranges_of(lambda x: 1 / x, torch.tensor([0.0]), torch.tensor([1.0]))

    assert not found["reciprocal"].finite


@pytest.mark.parametrize(
    ("module", "x", "square", "total"),
    [
        (nn.LayerNorm(2), [[0.0, 6.0]], 9.0, 18.0),
        (nn.LayerNorm(2), [[100.0, 106.0]], 9.0, 18.0),
        (nn.GroupNorm(1, 2), [[[0.0], [6.0]]], 9.0, 18.0),
        (lambda x: torch.linalg.vector_norm(x, dim=1), [[3.0, -4.0]], 16.0, 25.0),
    ],
    ids=["layer norm", "its mean is taken out", "group norm", "length"],
)
def test_norms_square_inside(
    module: nn.Module, x: list[list[float]], square: float, total: float
) -> None:
    (found,) = ranges_of(module, torch.tensor(x)).values()

    assert (found.square, found.total) == (square, total)


@pytest.mark.parametrize(
    ("function", "total"),
    [
        (lambda x: x.mean(1), 10.0),
        (lambda x: x.sum(1), 10.0),
        (lambda x: x.amax(1), 0.0),
    ],
    ids=["mean", "sum", "maximum"],
)
def test_reductions_add_up_inside(function: Callable[[Tensor], Tensor], total: float) -> None:
    (found,) = ranges_of(function, torch.tensor([[1.0, 2.0, 3.0, 4.0]])).values()

    assert found.total == total
