"""Constants FP16 cannot hold, and values measured past its end."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
import torch
from torch import Tensor, nn

from effsam_export.models.efficientvit import LiteMLA
from effsam_export.models.expedit import Clustering, TokenClustering
from effsam_export.models.sam.layers import LayerNorm2d
from tests.lint.tools import hits, subject

pytestmark = pytest.mark.backend

ONES = torch.ones(1, 4, 2, 2)
RAMP = torch.arange(16.0).reshape(1, 4, 2, 2)


# ------------------------------------------------------------------ guards


def test_sams_layer_norm_has_an_eps_below_the_normal_numbers() -> None:
    assert hits("tiny-eps", subject(LayerNorm2d(4), ONES)) == [
        ("add", "eps 1.0e-06 is below FP16's normal numbers (6.1e-05)", "warning")
    ]


def test_an_eps_that_was_not_needed_is_no_hit() -> None:
    assert hits("tiny-eps", subject(LayerNorm2d(4), RAMP, measured=True)) == []


def test_a_needed_eps_is_reported_with_its_value() -> None:
    assert hits("tiny-eps", subject(LayerNorm2d(4), ONES, measured=True)) == [
        (
            "add",
            "eps 1.0e-06 is below FP16's normal numbers (6.1e-05), and the guarded value was "
            "1.0e-06",
            "warning",
        )
    ]


def test_an_eps_that_is_nothing_and_was_needed_is_an_error() -> None:
    found = subject(lambda x: x / (x.sum() + 1e-15), 0 * ONES, measured=True)

    assert hits("tiny-eps", found) == [
        ("add", "eps 1.0e-15 is 0 in FP16, and the guarded value was 1.0e-15", "error")
    ]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: 1 / (x + 1e-9),
        lambda x: torch.rsqrt(x + 1e-9),
        lambda x: torch.log(x + 1e-9),
        lambda x: (x + 1e-9) ** -0.5,
        lambda x: x / x.clamp(min=1e-9),
        lambda x: x / torch.sqrt(x + 1e-9),
        lambda x: x / (x.sum(1, keepdim=True) + 1e-9).expand(1, 4, 2, 2),
        lambda x: nn.functional.normalize(x, dim=1),
    ],
    ids=["quotient", "rsqrt", "log", "power", "clamp", "root", "expanded", "normalize"],
)
def test_a_guard_in_front_of_any_division_is_found(function: object) -> None:
    assert callable(function)

    assert len(hits("tiny-eps", subject(function, ONES))) == 1


@pytest.mark.parametrize(
    "function",
    [lambda x: x + 1e-9, lambda x: (x + 1e-9) / 2, lambda x: x / (x + 1e-3), lambda x: x / x],
    ids=["no division", "above the line", "large enough", "no guard"],
)
def test_other_small_numbers_are_fine(function: object) -> None:
    assert callable(function)

    assert hits("tiny-eps", subject(function, ONES)) == []


def test_a_fused_norm_whose_eps_vanishes_is_found() -> None:
    assert hits("tiny-eps", subject(nn.LayerNorm(2, eps=1e-9), ONES)) == [
        ("layer_norm", "its eps 1.0e-09 is 0 in FP16", "warning")
    ]
    assert hits("tiny-eps", subject(nn.LayerNorm(2, eps=1e-6), ONES)) == []


def test_nodes_that_the_recipe_keeps_in_fp32_are_skipped() -> None:
    found = subject(LayerNorm2d(4), ONES, kept=frozenset({"add"}))

    assert hits("tiny-eps", found) == []


def test_the_authors_linear_attention_has_an_eps_that_vanishes() -> None:
    x = torch.zeros(1, 32, 2, 2)

    (hit,) = hits("tiny-eps", subject(LiteMLA(32, 3), x))
    assert hit[1:] == ("eps 1.0e-15 is 0 in FP16", "warning")


# ------------------------------------------------------------------ constants


def test_the_authors_clustering_holds_numbers_past_the_end() -> None:
    rule = Clustering(location=0, clusters=4, iterations=1, temperature=1.0, window=1, k=1)
    (hit,) = hits("huge-constant", subject(TokenClustering(rule), torch.zeros(1, 14, 14, 2)))

    assert hit == ("add_1", "`b_closed` holds 1e+16", "error")


@pytest.mark.parametrize(
    ("function", "details"),
    [
        (lambda x: x + 1e6, ["the number 1e+06"]),
        (lambda x: x * 70000, ["the number 7e+04"]),
        (lambda x: x.masked_fill(x > 0, -1e9), ["the number -1e+09"]),
        (lambda x: x + 65504.0, []),
        (lambda x: x.masked_fill(x > 0, float("-inf")), []),
        (lambda x: x[:, :, 1:], []),
    ],
    ids=["float", "whole", "fill", "the largest", "infinity", "open slice"],
)
def test_numbers_in_the_code(function: object, details: list[str]) -> None:
    assert callable(function)

    assert [h[1] for h in hits("huge-constant", subject(function, ONES))] == details


# ------------------------------------------------------------------ measured


def test_a_value_past_the_end_is_an_error() -> None:
    found = subject(lambda x: (x * 1000) * 20, RAMP, measured=True)

    assert hits("overflow", found) == [("mul_1", "reached 300,000", "error")]


def test_a_value_near_the_end_is_a_warning() -> None:
    found = subject(lambda x: x * 3000, RAMP, measured=True)

    assert hits("overflow", found) == [("mul", "reached 45,000", "warning")]


def test_an_infinite_value_in_fp32_is_reported_where_it_began() -> None:
    found = subject(lambda x: torch.reciprocal(x) * 2 + 1, RAMP, measured=True)

    assert hits("overflow", found) == [("reciprocal", "is Inf or NaN in FP32 already", "error")]


def test_nothing_is_said_without_measurement() -> None:
    found = subject(lambda x: (x * 1000) * 20, RAMP)

    assert [hits(r, found) for r in ("overflow", "norm-squares", "sums")] == [[], [], []]


def test_the_squares_of_a_layer_norm_count() -> None:
    x = torch.tensor([[-400.0, 400.0]])

    assert hits("norm-squares", subject(nn.LayerNorm(2), x, measured=True)) == [
        ("layer_norm", "squares reached 160,000", "warning")
    ]


def test_a_mean_is_not_squared() -> None:
    x = torch.tensor([[9999.0, 10001.0]])

    assert hits("norm-squares", subject(nn.LayerNorm(2), x, measured=True)) == []


def test_the_sum_behind_a_mean_counts() -> None:
    def mean(x: Tensor) -> Tensor:
        return x.mean((2, 3))

    found = subject(mean, torch.full((1, 1, 300, 300), 1.0), measured=True)

    assert hits("sums", found) == [("mean", "a sum reached 90,000", "warning")]
    assert hits("overflow", found) == []
