"""Elementwise arithmetic, comparison and logic with numpy's broadcasting."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from effsam_export.backends.coreml.mil.rounding import in_fp32

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from effsam_export.backends.coreml.mil.arguments import Arguments

CASTS = {
    "bool": torch.bool,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "uint8": torch.uint8,
    "uint16": torch.uint16,
}

EPSILONS = {"inverse": 1e-4, "log": 1e-45, "rsqrt": 1e-12}
"""Default `epsilon`, which is added to the operand. Source: coremltools, `ops/defs/iOS15`."""


def _unary(function: Callable[[Tensor], Tensor], args: Arguments) -> Tensor:
    return in_fp32(function, args.tensor("x"))


def _binary(function: Callable[[Tensor, Tensor], Tensor], args: Arguments) -> Tensor:
    x = args.tensor("x")
    return in_fp32(function, x, args.tensor("y", x))


def _compare(function: Callable[[Tensor, Tensor], Tensor], args: Arguments) -> Tensor:
    x = args.tensor("x")
    return function(x, args.tensor("y", x))


def _logical(function: Callable[..., Tensor], args: Arguments) -> Tensor:
    x = args.tensor("x")
    if x.dtype != torch.bool:
        raise args.refuse("has numbers as operands, expected booleans")
    return function(x, args.tensor("y", x)) if args.has("y") else function(x)


def _shifted(function: Callable[[Tensor], Tensor], args: Arguments) -> Tensor:
    """Return `function(x + epsilon)`; the sum is rounded to the op's dtype if pessimistic."""
    x = args.tensor("x")
    steps = args.steps(x)
    epsilon = args.number("epsilon", EPSILONS[args.operation.kind])
    shift = steps.store(torch.tensor(epsilon, dtype=torch.float32))
    return steps.finish(function(steps.store(steps.widen(x) + shift)))


def _real_div(args: Arguments) -> Tensor:
    x = args.tensor("x")
    if not x.is_floating_point():
        raise args.refuse("divides integers, whose rounding is not documented")
    return in_fp32(torch.div, x, args.tensor("y", x))


def _cast(args: Arguments) -> Tensor:
    return args.tensor("x").to(CASTS[args.choice("dtype", tuple(CASTS))])


def _clip(args: Arguments) -> Tensor:
    low, high = args.number("alpha"), args.number("beta")
    return in_fp32(lambda x: x.clamp(low, high), args.tensor("x"))


def _select(args: Arguments) -> Tensor:
    cond, a = args.tensor("cond"), args.tensor("a")
    if cond.dtype != torch.bool:
        raise args.refuse("has numbers as condition, expected booleans")
    return torch.where(cond, a, args.tensor("b", a))


def _threshold(args: Arguments) -> Tensor:
    low = args.number("alpha")
    return in_fp32(lambda x: x.clamp(min=low), args.tensor("x"))


OPS: dict[str, Callable[[Arguments], Tensor]] = {
    "abs": partial(_unary, torch.abs),
    "acos": partial(_unary, torch.acos),
    "asin": partial(_unary, torch.asin),
    "atan": partial(_unary, torch.atan),
    "ceil": partial(_unary, torch.ceil),
    "cos": partial(_unary, torch.cos),
    "cosh": partial(_unary, torch.cosh),
    "erf": partial(_unary, torch.erf),
    "exp": partial(_unary, torch.exp),
    "exp2": partial(_unary, torch.exp2),
    "floor": partial(_unary, torch.floor),
    "round": partial(_unary, torch.round),
    "sign": partial(_unary, torch.sign),
    "sin": partial(_unary, torch.sin),
    "sinh": partial(_unary, torch.sinh),
    "sqrt": partial(_unary, torch.sqrt),
    "square": partial(_unary, torch.square),
    "tan": partial(_unary, torch.tan),
    "tanh": partial(_unary, torch.tanh),
    "inverse": partial(_shifted, torch.reciprocal),
    "log": partial(_shifted, torch.log),
    "rsqrt": partial(_shifted, torch.rsqrt),
    "add": partial(_binary, torch.add),
    "floor_div": partial(_binary, torch.floor_divide),
    "maximum": partial(_binary, torch.maximum),
    "minimum": partial(_binary, torch.minimum),
    "mod": partial(_binary, torch.remainder),
    "mul": partial(_binary, torch.mul),
    "pow": partial(_binary, torch.pow),
    "real_div": _real_div,
    "sub": partial(_binary, torch.sub),
    "equal": partial(_compare, torch.eq),
    "greater": partial(_compare, torch.gt),
    "greater_equal": partial(_compare, torch.ge),
    "less": partial(_compare, torch.lt),
    "less_equal": partial(_compare, torch.le),
    "not_equal": partial(_compare, torch.ne),
    "logical_and": partial(_logical, torch.logical_and),
    "logical_not": partial(_logical, torch.logical_not),
    "logical_or": partial(_logical, torch.logical_or),
    "logical_xor": partial(_logical, torch.logical_xor),
    "cast": _cast,
    "clip": _clip,
    "select": _select,
    "threshold": _threshold,
}
