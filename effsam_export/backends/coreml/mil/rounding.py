"""What is assumed about the arithmetic of a device.

Nothing here is measured on one, so a result is `simulated`. The assumptions, for FP16:

* Every op takes its FP16 operands, computes in FP32 and rounds its result to FP16 once. Values
  over 65504 become infinite and stay so.
* Convolutions and matrix products, with their bias, accumulate in FP32. So do sums.
* Ops that stand for several (normalisations, softmax, GELU, SiLU, norms, attention) pass through
  FP16 wherever a device that runs them as several kernels would store a value: a square over 65504
  is infinite, an epsilon below 6e-8 is zero. This is the pessimistic reading and the default;
  `pessimistic=False` keeps their inside in FP32.

FP32 ops compute in FP32 throughout, integer ops in their own dtype.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def lift(function: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    """`function` of the operands, FP16 ones widened to FP32, rounded to the dtype of the first."""
    if operands[0].dtype != torch.float16:
        return function(*operands)
    return function(*(operand.float() for operand in operands)).half()


class Steps:
    """The intermediate values of one compound op.

    Args:
        like: The operand whose dtype the op has.
        pessimistic: Whether FP16 intermediates are rounded.
    """

    def __init__(self, like: Tensor, *, pessimistic: bool) -> None:
        self.dtype = like.dtype
        self.rounds = pessimistic and like.dtype == torch.float16

    def widen(self, operand: Tensor) -> Tensor:
        """An operand as the op computes with it."""
        return operand.float() if operand.dtype == torch.float16 else operand

    def store(self, value: Tensor) -> Tensor:
        """An intermediate value, as it comes back after being stored."""
        return value.half().float() if self.rounds else value

    def finish(self, value: Tensor) -> Tensor:
        """The op's result, in its dtype."""
        return value.to(self.dtype)
