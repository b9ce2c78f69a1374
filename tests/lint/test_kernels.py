"""Operators that a runtime does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")
import torch
from torch import Tensor, nn

from tests.lint.tools import hits, subject, target

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.backend

X = torch.arange(16.0).reshape(1, 1, 4, 4)
ROWS = torch.tensor([2, 0, 1])


class Table(nn.Module):
    """A learned table read at constant places, as TinyViT's attention bias."""

    at: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(4, 4))
        self.register_buffer("at", ROWS)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table[:, self.at].sum()


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda x: x[:, :, ROWS], "GATHER_ND"),
        (lambda x: x.topk(2).values, "TOPK_V2"),
        (lambda x: x.expand(3, 1, 4, 4).contiguous(), "BROADCAST_TO"),
        (lambda x: x.argmax(-1), "ARG_MAX"),
        (lambda x: torch.logical_not(x > 0), "LOGICAL_NOT"),
        (lambda x: torch.roll(x, 1, 2), "a chain of slices"),
    ],
    ids=["index", "topk", "expand", "argmax", "not", "roll"],
)
def test_the_delegate_lacks_operators(function: Callable[[Tensor], Tensor], found: str) -> None:
    (hit,) = hits("gpu-operator", subject(function, X))

    assert hit[1:] == (f"becomes {found}", "error")


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.expand(1, 1, 4, 4) + 1,
        lambda x: torch.where(x > 0, x, -x),
        lambda x: x[:, :, 1:3],
        lambda x: x.softmax(-1) @ x,
    ],
    ids=["expansion to itself", "where", "slice", "attention"],
)
def test_the_delegate_has_others(function: Callable[[Tensor], Tensor]) -> None:
    assert hits("gpu-operator", subject(function, X)) == []


def test_a_node_with_constant_inputs_only_is_folded() -> None:
    assert hits("gpu-operator", subject(Table(), X)) == []


def test_a_target_file_forbids_operators_by_name() -> None:
    def function(x: Tensor) -> Tensor:
        return x[:, :, ROWS].topk(2).values

    to = target("tflite", "fp32", forbidden_ops="TOPK_V2, SELECT")

    assert hits("forbidden-operator", subject(function, X, to=to)) == [
        ("topk", "becomes TOPK_V2", "error")
    ]
    assert hits("forbidden-operator", subject(function, X, to=target("tflite"))) == []


@pytest.mark.parametrize(
    ("rule", "function", "detail"),
    [
        ("tflite-operator", lambda x: torch.erfinv(x / 99), "no builtin operator"),
        ("coreml-operator", lambda x: torch.trunc(x), "no conversion"),
    ],
)
def test_converters_lack_operators(
    rule: str, function: Callable[[Tensor], Tensor], detail: str
) -> None:
    (hit,) = hits(rule, subject(function, X))

    assert hit[1:] == (detail, "error")


@pytest.mark.parametrize("rule", ["tflite-operator", "coreml-operator"])
def test_converters_have_others(rule: str) -> None:
    assert hits(rule, subject(lambda x: x.softmax(-1) @ x, X)) == []


def test_topk_stays_in_fp32() -> None:
    assert hits("fp16-operator", subject(lambda x: x.topk(2).values, X)) == [
        ("topk", "TopK stays in FP32, between casts", "warning")
    ]


def test_whole_numbers_have_no_precision() -> None:
    def function(x: Tensor) -> Tensor:
        return torch.maximum((x > 1).to(torch.int64), (x > 2).to(torch.int64))

    assert hits("fp16-operator", subject(function, X)) == []
