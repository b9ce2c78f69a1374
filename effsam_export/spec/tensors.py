"""Tensors by name: shapes, dtypes and arrays."""

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
"""Tensors by their exact contract name: what a graph takes, or what it gives."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Name, shape (a `str` is a named dynamic dimension) and dtype of one graph input or output."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"
    description: str = ""
