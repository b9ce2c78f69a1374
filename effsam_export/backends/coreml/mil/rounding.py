"""Round FP16 values by assumptions about the arithmetic of a device.

The assumptions were not measured on a device, so a result is `simulated`. For FP16:

* An op reads FP16 operands, computes in FP32 and rounds its result to FP16 once. Values over 65504
  become infinite.
* Convolutions, matrix products and sums accumulate in FP32, bias included.
* Compound ops (normalisations, softmax, GELU, SiLU, norms, attention) round every intermediate
  value that a device would store if it ran them as several kernels. A square over 65504 becomes
  infinite, an epsilon below 6e-8 becomes zero. This is the pessimistic default;
  `pessimistic=False` keeps intermediate values in FP32.

FP32 ops compute in FP32, integer ops in their dtype.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def in_fp32(function: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    """Call `function` with FP16 operands cast to FP32; cast its result to the first dtype."""
    if operands[0].dtype != torch.float16:
        return function(*operands)
    return function(*(operand.float() for operand in operands)).half()


class Steps:
    """Rounding of the intermediate values of one compound op.

    Args:
        like: Operand with the dtype of the op.
        pessimistic: Round intermediate values of an FP16 op to FP16.
    """

    def __init__(self, like: Tensor, *, pessimistic: bool) -> None:
        self.dtype = like.dtype
        self.rounds = pessimistic and like.dtype == torch.float16

    def widen(self, operand: Tensor) -> Tensor:
        """Return an operand in the dtype of the computation, FP32 for FP16."""
        return operand.float() if operand.dtype == torch.float16 else operand

    def store(self, value: Tensor) -> Tensor:
        """Return an intermediate value after storing it, rounded to FP16 if the op rounds."""
        return value.half().float() if self.rounds else value

    def finish(self, value: Tensor) -> Tensor:
        """Return the result of the op in its dtype."""
        return value.to(self.dtype)
