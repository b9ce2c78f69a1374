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


@dataclass(frozen=True, kw_only=True)
class ReportedTensor:
    """An input or output as a file or a runtime reports it.

    Attributes:
        shape: Sizes in order; None for a dynamic axis. None if the shape is not reported.
        dtype: Numpy's name.
    """

    name: str
    shape: tuple[int | None, ...] | None
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Signature:
    """The inputs and outputs of a graph, as a file or a runtime reports them."""

    inputs: tuple[ReportedTensor, ...]
    outputs: tuple[ReportedTensor, ...]
