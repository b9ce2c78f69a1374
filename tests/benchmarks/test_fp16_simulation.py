"""FP16 as an accelerator computes it: rounded at every step, infinite past the end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")
import torch
from torch import Tensor, nn

from benchmarks.fp16_operators import Rounding, gelu, layer_norm, softmax, vector_norm
from benchmarks.fp16_simulation import Arithmetic, simulate
from effsam_export.models.sam.layers import LayerNorm2d
from tests.precision.tools import traced

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.backend


class InFP32(Rounding):
    """Steps without rounding, to compare with torch."""

    def __call__(self, x: Tensor) -> Tensor:
        return x


def result(
    of: nn.Module | Callable[[Tensor], Tensor], x: Tensor, arithmetic: Arithmetic | None = None
) -> Tensor:
    """What simulated FP16 makes of one input."""
    (out,) = simulate(traced(of, x), {"x": x}, arithmetic or Arithmetic())
    return out


# ------------------------------------------------------------------ rounding


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (1.0, 1.0),
        (2049.0, 2048.0),
        (65504.0, 65504.0),
        (65519.0, 65504.0),
        (65520.0, math.inf),
        (-1e6, -math.inf),
        (2.0**-24, 2.0**-24),
        (2.0**-26, 0.0),
    ],
)
def test_rounding(value: float, rounded: float) -> None:
    assert Rounding()(torch.tensor(value)).item() == rounded


@pytest.mark.parametrize(
    ("value", "rounded"), [(2.0**-14, 2.0**-14), (2.0**-15, 0.0), (1.0, 1.0), (-(2.0**-20), 0.0)]
)
def test_flushing(value: float, rounded: float) -> None:
    assert Rounding(flush=True)(torch.tensor(value)).item() == rounded


def test_a_sum_is_rounded() -> None:
    assert result(lambda x: x + 1, torch.tensor([2048.0])).item() == 2048.0


def test_numbers_in_the_code_are_rounded() -> None:
    assert result(lambda x: x + 1e-15, torch.tensor([0.0])).item() == 0.0


def test_inputs_are_rounded_even_if_only_moved() -> None:
    assert result(lambda x: x.reshape(1, 1), torch.tensor([2049.0])).item() == 2048.0


def test_weights_are_rounded() -> None:
    linear = nn.Linear(1, 1, bias=False)
    linear.weight = nn.Parameter(torch.tensor([[2049.0]]))

    assert result(linear, torch.tensor([[1.0]])).item() == 2048.0


def test_whole_numbers_are_left_alone() -> None:
    found = result(lambda x: torch.arange(2049, 2050) + (x > 0), torch.tensor([1.0]))

    assert found.item() == 2050


def test_products_add_up_in_fp32() -> None:
    # Two products past the end whose sum is not: an FP32 accumulator holds them.
    x = torch.tensor([[300.0, -300.0]])

    assert result(lambda x: x @ torch.tensor([[300.0], [299.0]]), x).item() == 300.0


def test_what_is_kept_computes_in_fp32_and_hands_on_fp32() -> None:
    def function(x: Tensor) -> Tensor:
        return (x * x) / (x * x)

    x = torch.tensor([300.0])

    assert math.isnan(result(function, x).item())
    assert result(function, x, Arithmetic(keep=frozenset({"mul", "mul_1", "div"}))).item() == 1.0


def test_what_is_not_kept_takes_rounded_numbers_from_what_is() -> None:
    def function(x: Tensor) -> Tensor:
        return x * x - 1

    found = result(function, torch.tensor([300.0]), Arithmetic(keep=frozenset({"mul"})))

    assert found.item() == math.inf


# ------------------------------------------------------------------ steps


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (
            lambda x: layer_norm(InFP32(), x, [5], x[0], x[1]),
            lambda x: nn.functional.layer_norm(x, [5], x[0], x[1]),
        ),
        (lambda x: softmax(InFP32(), x, -1), lambda x: torch.softmax(x, -1)),
        (lambda x: gelu(InFP32(), x), nn.functional.gelu),
        (
            lambda x: gelu(InFP32(), x, approximate="tanh"),
            lambda x: nn.functional.gelu(x, approximate="tanh"),
        ),
        (
            lambda x: vector_norm(InFP32(), x, 2.0, [1]),
            lambda x: torch.linalg.vector_norm(x, dim=1),
        ),
    ],
    ids=["layer norm", "softmax", "gelu", "tanh gelu", "length"],
)
def test_steps_compute_what_torch_computes(
    mine: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor]
) -> None:
    x = torch.linspace(-4, 4, 15).reshape(3, 5)

    assert torch.allclose(mine(x), theirs(x), atol=1e-6)


def test_a_layer_norm_squares_past_the_end() -> None:
    x = torch.tensor([[-300.0, 300.0]])

    assert result(nn.LayerNorm(2), x).tolist() == [[0.0, 0.0]]


def test_sams_layer_norm_squares_past_the_end_in_the_same_way() -> None:
    x = torch.tensor([-300.0, 300.0]).reshape(1, 2, 1, 1)

    assert result(LayerNorm2d(2), x).flatten().tolist() == [0.0, 0.0]


def test_a_layer_norm_of_zeros_divides_zero_by_zero_where_small_numbers_are_zero() -> None:
    x = torch.zeros(1, 2)

    assert result(nn.LayerNorm(2), x).tolist() == [[0.0, 0.0]]
    assert result(nn.LayerNorm(2), x, Arithmetic(flush=True)).isnan().all()


def test_softmax_survives_large_scores() -> None:
    found = result(lambda x: x.softmax(-1), torch.tensor([[60000.0, -60000.0]]))

    assert found.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_survives_large_numbers(approximate: str) -> None:
    found = result(nn.GELU(approximate=approximate), torch.tensor([-6e4, 3e4]))

    assert found.tolist() == [0.0, 30000.0]
