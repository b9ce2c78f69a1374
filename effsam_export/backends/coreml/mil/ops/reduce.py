"""Reductions over axes, accumulated in FP32; squares and exponentials are rounded before."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from effsam_export.backends.coreml.mil.arguments import Arguments
    from effsam_export.backends.coreml.mil.rounding import Steps

    Reduction = Callable[[Steps, Tensor, list[int], bool], Tensor]


def _mean(_: Steps, x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.mean(axes, keepdim=keep)


def _sum(_: Steps, x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep, dtype=x.dtype)


def _max(_: Steps, x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.amax(axes, keepdim=keep)


def _min(_: Steps, x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.amin(axes, keepdim=keep)


def _prod(_: Steps, x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _l1(steps: Steps, x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _sum(steps, x.abs(), axes, keep)


def _squares(steps: Steps, x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _sum(steps, steps.store(x * x), axes, keep)


def _l2(steps: Steps, x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return steps.store(_squares(steps, x, axes, keep)).sqrt()


def _log_sum(steps: Steps, x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return steps.store(_sum(steps, x, axes, keep)).log()


def _log_sum_exp(steps: Steps, x: Tensor, axes: list[int], keep: bool) -> Tensor:
    largest = x.amax(axes, keepdim=True)
    powers = steps.store(torch.exp(steps.store(x - largest)))
    logs = steps.store(steps.store(powers.sum(axes, keepdim=True)).log())
    return (logs + largest).sum(axes, keepdim=keep)


def _reduce(function: Reduction, args: Arguments) -> Tensor:
    x = args.tensor("x")
    steps = args.steps(x)
    axes = args.axes("axes", x.ndim, range(x.ndim))
    keep = args.flag("keep_dims", False)
    wide = steps.widen(x)
    return steps.finish(function(steps, wide, axes, keep) if axes else wide)


def _index(function: Callable[..., Tensor], args: Arguments) -> Tensor:
    """Return the index of the extreme value, of equal ones the first, like numpy."""
    x = args.tensor("x")
    axis = args.axis("axis", x.ndim, -1)
    keep = args.flag("keep_dims", False)
    dtype = args.choice("output_dtype", ("int32", "uint16"), "int32")
    extreme = function(x, axis, keepdim=True)
    positions = torch.arange(x.shape[axis]).reshape([-1] + [1] * (x.ndim - 1 - axis))
    first = torch.where(x == extreme, positions, x.shape[axis]).amin(axis, keepdim=keep)
    return first.to(torch.int32 if dtype == "int32" else torch.uint16)


OPS: dict[str, Callable[[Arguments], Tensor]] = {
    "reduce_argmax": partial(_index, torch.amax),
    "reduce_argmin": partial(_index, torch.amin),
    "reduce_l1_norm": partial(_reduce, _l1),
    "reduce_l2_norm": partial(_reduce, _l2),
    "reduce_log_sum": partial(_reduce, _log_sum),
    "reduce_log_sum_exp": partial(_reduce, _log_sum_exp),
    "reduce_max": partial(_reduce, _max),
    "reduce_mean": partial(_reduce, _mean),
    "reduce_min": partial(_reduce, _min),
    "reduce_prod": partial(_reduce, _prod),
    "reduce_sum": partial(_reduce, _sum),
    "reduce_sum_square": partial(_reduce, _squares),
}
