"""Normalisations. Those that compute statistics round every step, see `rounding.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from effsam_export.backends.coreml.mil.rounding import in_fp32

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from effsam_export.backends.coreml.mil.arguments import Arguments

EPSILON = 1e-5
L2_EPSILON = 1e-6
"""Defaults of `epsilon`. Source: coremltools, `ops/defs/iOS15/normalization.py`."""


def _batch_norm(args: Arguments) -> Tensor:
    """Normalise by constants, which a device folds into a scale and a shift per channel."""
    x = args.tensor("x")
    shape = [1, -1] + [1] * (x.ndim - 2)
    mean = args.tensor("mean", x).float()
    variance = args.tensor("variance", x).float()
    gamma, beta = args.optional("gamma", x), args.optional("beta", x)
    epsilon = args.number("epsilon", EPSILON)
    scale = torch.rsqrt(variance + epsilon)
    if gamma is not None:
        scale = scale * gamma.float()
    shift = -mean * scale if beta is None else beta.float() - mean * scale
    return in_fp32(lambda wide: wide * scale.reshape(shape) + shift.reshape(shape), x)


def _layer_norm(args: Arguments) -> Tensor:
    x = args.tensor("x")
    axes = sorted(args.axes("axes", x.ndim, range(x.ndim)))
    shape = [x.shape[axis] if axis in axes else 1 for axis in range(x.ndim)]
    return _normalise(args, x, axes, shape)


def _instance_norm(args: Arguments) -> Tensor:
    x = args.tensor("x")
    if x.ndim not in (3, 4):
        raise args.refuse(f"has an input {list(x.shape)} of unsupported rank")
    shape = [1, x.shape[1]] + [1] * (x.ndim - 2)
    return _normalise(args, x, list(range(2, x.ndim)), shape)


def _normalise(args: Arguments, x: Tensor, axes: list[int], shape: list[int]) -> Tensor:
    """Normalise over `axes`; gamma and beta are reshaped to `shape`."""
    gamma, beta = args.optional("gamma", x), args.optional("beta", x)
    epsilon = args.number("epsilon", EPSILON)
    steps = args.steps(x)
    wide = steps.widen(x)
    centred = steps.store(wide - steps.store(wide.mean(axes, keepdim=True)))
    variance = steps.store(steps.store(centred * centred).mean(axes, keepdim=True))
    shifted = steps.store(variance + steps.store(torch.tensor(epsilon)))
    result = centred * steps.store(torch.rsqrt(shifted))
    if gamma is not None:
        result = steps.store(result) * steps.widen(gamma).reshape(shape)
    if beta is not None:
        result = steps.store(result) + steps.widen(beta).reshape(shape)
    return steps.finish(result)


def _l2_norm(args: Arguments) -> Tensor:
    """Divide by the L2 norm over the last three axes."""
    x = args.tensor("x")
    if x.ndim < 3:
        raise args.refuse(f"has an input {list(x.shape)} of unsupported rank")
    steps = args.steps(x)
    wide = steps.widen(x)
    total = steps.store(steps.store(wide * wide).sum((-3, -2, -1), keepdim=True))
    epsilon = steps.store(torch.tensor(args.number("epsilon", L2_EPSILON)))
    return steps.finish(wide * steps.store(torch.rsqrt(steps.store(total + epsilon))))


OPS: dict[str, Callable[[Arguments], Tensor]] = {
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "l2_norm": _l2_norm,
    "layer_norm": _layer_norm,
}
