"""Named tensors: specifications and arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Float32 = NDArray[np.float32]

Feeds = Mapping[str, "Array"]
"""Inputs or outputs of a graph as arrays, by tensor name."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Name, shape and dtype of a graph input or output; a `str` in a shape is a dynamic axis."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"
    description: str = ""
