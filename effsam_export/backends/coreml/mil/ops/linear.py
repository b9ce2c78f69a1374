"""Matrix products, accumulated in FP32 with the bias and rounded once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from effsam_export.backends.coreml.mil.rounding import in_fp32

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from effsam_export.backends.coreml.mil.arguments import Arguments


def _linear(args: Arguments) -> Tensor:
    x = args.tensor("x")
    weight, bias = args.tensor("weight", x), args.optional("bias", x)
    if bias is None:
        return in_fp32(functional.linear, x, weight)
    return in_fp32(functional.linear, x, weight, bias)


def _matmul(args: Arguments) -> Tensor:
    x = args.tensor("x")
    y = args.tensor("y", x)
    if args.flag("transpose_x", False):
        x = x.transpose(-1, -2)
    if args.flag("transpose_y", False):
        y = y.transpose(-1, -2)
    return in_fp32(torch.matmul, x, y)


def _einsum(args: Arguments) -> Tensor:
    values = args.tensors("values")
    equation = args.constant("equation").data
    if not isinstance(equation, str):
        raise args.refuse("has an equation that is not a string")
    return in_fp32(lambda *wide: torch.einsum(equation, *wide), *values)


OPS: dict[str, Callable[[Arguments], Tensor]] = {
    "einsum": _einsum,
    "linear": _linear,
    "matmul": _matmul,
}
