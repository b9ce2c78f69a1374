"""Composite operators one step at a time, each step rounded to FP16."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from effsam_export.precision.ranges import FP16_NORMAL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """FP32 tensor -> the nearest FP16 numbers, as FP32; past 65504 they are Inf."""

    flush: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        out = x.half().float()
        if self.flush:
            out = torch.where(out.abs() < FP16_NORMAL, torch.zeros_like(out), out)
        return out


def layer_norm(
    r: Rounding,
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,  # noqa: ANN401  # cudnn_enable
) -> Tensor:
    """Mean, centred, square, variance, root, quotient, scale, shift."""
    axes = list(range(x.ndim - len(shape), x.ndim))
    centred = r(x - r(x.mean(axes, keepdim=True)))
    variance = r(r(centred * centred).mean(axes, keepdim=True))
    out = r(centred / r(torch.sqrt(r(variance + eps))))
    out = out if weight is None else r(out * weight)
    return out if bias is None else r(out + bias)


def softmax(r: Rounding, x: Tensor, dim: int, *_: Any, **__: Any) -> Tensor:  # noqa: ANN401
    """Largest, difference, exponential, sum, quotient."""
    powers = r(torch.exp(r(x - x.amax(dim, keepdim=True))))
    return r(powers / r(powers.sum(dim, keepdim=True)))


def gelu(r: Rounding, x: Tensor, *, approximate: str = "none") -> Tensor:
    """The chain around erf, or around tanh."""
    if approximate == "tanh":
        cube = r(r(x * x) * x)
        inner = r(r(x + r(cube * 0.044715)) * math.sqrt(2 / math.pi))
        gate = r(torch.tanh(inner) + 1)
    else:
        gate = r(r(torch.erf(r(x * math.sqrt(0.5)))) + 1)
    return r(r(x * gate) * 0.5)


def vector_norm(
    r: Rounding, x: Tensor, order: float, dim: Sequence[int], keepdim: bool = False
) -> Tensor:
    """Squares, sum, root."""
    assert order == 2
    return r(torch.sqrt(r(r(x * x).sum(list(dim), keepdim=keepdim))))


def linear(r: Rounding, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Product, then bias."""
    out = r(x @ weight.T)
    return out if bias is None else r(out + bias)


STEPS: Mapping[str, Callable[..., Tensor]] = {
    "gelu": gelu,
    "layer_norm": layer_norm,
    "linalg_vector_norm": vector_norm,
    "linear": linear,
    "softmax": softmax,
}
