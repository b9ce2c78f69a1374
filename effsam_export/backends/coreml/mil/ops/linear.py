"""Matrix products: FP32 accumulators, bias included, rounded once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from effsam_export.backends.coreml.mil.rounding import lift

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from effsam_export.backends.coreml.mil.arguments import Arguments


def _linear(args: Arguments) -> Tensor:
    x = args.tensor("x")
    weight, bias = args.tensor("weight", x), args.optional("bias", x)
    if bias is None:
        return lift(functional.linear, x, weight)
    return lift(functional.linear, x, weight, bias)


def _matmul(args: Arguments) -> Tensor:
    x = args.tensor("x")
    y = args.tensor("y", x)
    if args.flag("transpose_x", False):
        x = x.transpose(-1, -2)
    if args.flag("transpose_y", False):
        y = y.transpose(-1, -2)
    return lift(torch.matmul, x, y)


def _einsum(args: Arguments) -> Tensor:
    values = args.tensors("values")
    equation = args.constant("equation").data
    if not isinstance(equation, str):
        raise args.refuse("has an equation that is not a word")
    return lift(lambda *wide: torch.einsum(equation, *wide), *values)


OPS: dict[str, Callable[[Arguments], Tensor]] = {
    "einsum": _einsum,
    "linear": _linear,
    "matmul": _matmul,
}
