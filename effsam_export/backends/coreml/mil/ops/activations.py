"""Activation functions of MIL."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from effsam_export.backends.coreml.mil.rounding import in_fp32

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from effsam_export.backends.coreml.mil.arguments import Arguments


SLICE = 1 << 16
"""Elements of a slice of softmax, which fits into the cache of a CPU core in FP32."""


def _plain(function: Callable[[Tensor], Tensor], args: Arguments) -> Tensor:
    return in_fp32(function, args.tensor("x"))


def _leaky_relu(args: Arguments) -> Tensor:
    slope = args.number("alpha")
    return in_fp32(lambda x: torch.where(x >= 0, x, x * slope), args.tensor("x"))


def _elu(args: Arguments) -> Tensor:
    alpha = args.number("alpha")
    return in_fp32(lambda x: functional.elu(x, alpha), args.tensor("x"))


def _clamped_relu(args: Arguments) -> Tensor:
    """Return `min(beta, x)` where `x >= 0`, and `min(beta, alpha * x)` elsewhere."""
    slope, maximum = args.number("alpha"), args.number("beta")
    return in_fp32(lambda x: torch.where(x >= 0, x, x * slope).clamp(max=maximum), args.tensor("x"))


def _linear_activation(args: Arguments) -> Tensor:
    slope, shift = args.number("alpha"), args.number("beta", 0.0)
    return in_fp32(lambda x: x * slope + shift, args.tensor("x"))


def _sigmoid_hard(args: Arguments) -> Tensor:
    slope, shift = args.number("alpha"), args.number("beta")
    return in_fp32(lambda x: (x * slope + shift).clamp(0.0, 1.0), args.tensor("x"))


def _prelu(args: Arguments) -> Tensor:
    """Apply PReLU with a slope for each channel (the second axis)."""
    x = args.tensor("x")
    slope = args.tensor("alpha", x)
    if x.ndim < 3 or slope.shape != x.shape[1:2]:
        raise args.refuse(f"has {list(slope.shape)} slopes for {list(x.shape)}")
    return in_fp32(functional.prelu, x, slope)


def _silu(args: Arguments) -> Tensor:
    x = args.tensor("x")
    steps = args.steps(x)
    wide = steps.widen(x)
    return steps.finish(wide * steps.store(torch.sigmoid(wide)))


def _gelu(args: Arguments) -> Tensor:
    x = args.tensor("x")
    steps = args.steps(x)
    wide = steps.widen(x)
    modes = ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")
    mode = args.choice("mode", modes, "EXACT")
    if mode == "SIGMOID_APPROXIMATION":
        return steps.finish(wide * steps.store(torch.sigmoid(steps.store(1.702 * wide))))
    if mode == "EXACT":
        curve = torch.erf(steps.store(wide / math.sqrt(2.0)))
    else:
        cubed = steps.store(wide * steps.store(wide * wide))
        inner = steps.store(wide + steps.store(0.044715 * cubed))
        curve = torch.tanh(steps.store(math.sqrt(2.0 / math.pi) * inner))
    return steps.finish(steps.store(0.5 * wide) * steps.store(1.0 + steps.store(curve)))


def _softmax(args: Arguments) -> Tensor:
    x = args.tensor("x")
    return softmax(x, args.axis("axis", x.ndim, -1), args)


def softmax(x: Tensor, axis: int, args: Arguments) -> Tensor:
    """Return softmax along one axis, rounded to FP16 after every step if pessimistic."""
    steps = args.steps(x)
    if not steps.rounds:
        return in_fp32(lambda wide: torch.softmax(wide, axis), x)
    # Slice by slice, because attention maps do not fit into a cache.
    slices = x.movedim(axis, -1).reshape(-1, x.shape[axis])
    result = torch.empty_like(slices)
    rows = max(1, SLICE // x.shape[axis])
    for start in range(0, len(slices), rows):
        wide = steps.widen(slices[start : start + rows])
        powers = steps.store(steps.store(wide - wide.amax(-1, keepdim=True)).exp_())
        total = steps.store(powers.sum(-1, keepdim=True))
        result[start : start + rows] = powers.div_(total)
    return result.reshape(x.movedim(axis, -1).shape).movedim(-1, axis)


OPS: dict[str, Callable[[Arguments], Tensor]] = {
    "clamped_relu": _clamped_relu,
    "elu": _elu,
    "gelu": _gelu,
    "leaky_relu": _leaky_relu,
    "linear_activation": _linear_activation,
    "prelu": _prelu,
    "relu": partial(_plain, torch.relu),
    "relu6": partial(_plain, functional.relu6),
    "sigmoid": partial(_plain, torch.sigmoid),
    "sigmoid_hard": _sigmoid_hard,
    "silu": _silu,
    "softmax": _softmax,
    "softplus": partial(_plain, functional.softplus),
    "softsign": partial(_plain, functional.softsign),
}
