"""Constants and tolerances that several cases share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    Array = np.ndarray[Any, Any]

ACCUMULATED = 2.0**-10
"""One rounding of a sum that cancels a little."""

STORED = 2.0**-7
"""Several FP16 roundings."""


def fixed(*shape: int) -> Array:
    """Return the same random constants at every call."""
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float16)


def torched(function: Callable[..., torch.Tensor]) -> Callable[..., Array]:
    """A torch function of float64 arrays."""
    return lambda *arrays: function(*(torch.from_numpy(np.asarray(a)) for a in arrays)).numpy()


def wide(array: Array) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float64))
