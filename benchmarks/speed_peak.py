"""What the machine can compute in FP32 at the time of a run: a matrix product and a convolution."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

GEMM, CONVOLUTION = "GEMM", "convolution"
SIDE = 1536
"""Rows and columns of the matrices."""
CHANNELS, MAP = 256, 64
"""A 3x3 convolution of the size of an encoder's neck."""
FLOPS = {GEMM: 2 * SIDE**3, CONVOLUTION: 2 * 9 * CHANNELS**2 * MAP**2}


def calls() -> dict[str, Callable[[], object]]:
    """Return the two products as calls of torch, whose libraries are tuned for them."""
    import torch
    from torch.nn import functional

    random = torch.Generator().manual_seed(0)
    a, b = (torch.rand(SIDE, SIDE, generator=random) for _ in range(2))
    image = torch.rand(1, CHANNELS, MAP, MAP, generator=random)
    kernel = torch.rand(CHANNELS, CHANNELS, 3, 3, generator=random)
    return {
        GEMM: partial(torch.mm, a, b),
        CONVOLUTION: partial(functional.conv2d, image, kernel, padding=1),
    }
