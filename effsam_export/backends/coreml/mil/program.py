"""Data classes for one function of a saved MIL program, without protobuf and torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class TensorType:
    """Declared type of a value.

    Attributes:
        dtype: numpy name (`float16`, `int32`, `bool`), `string`, or a sub-byte integer such as
            `uint4`.
        shape: Sizes, None for a dynamic one; empty for a scalar.
    """

    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.dtype} [{sizes}]"

    def fits(self, dtype: str, shape: tuple[int, ...]) -> bool:
        """Return whether a value of a dtype and shape has this type."""
        return (
            dtype == self.dtype
            and len(shape) == len(self.shape)
            and all(size in (None, actual) for size, actual in zip(self.shape, shape, strict=True))
        )


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A constant value of the file.

    Attributes:
        type: Declared type.
        data: Array of the declared shape, or a string. Sub-byte integers take a byte each (int8,
            uint8).
    """

    type: TensorType
    data: NDArray[Any] | str


@dataclass(frozen=True, kw_only=True)
class NamedType:
    """The name of a value and its declared type."""

    name: str
    type: TensorType


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One op of a program.

    Attributes:
        kind: MIL's name of the op, such as `conv`.
        name: Name of this op, for messages.
        inputs: Parameter -> names of earlier values, or constants. Only a tuple parameter (as of
            `concat`) has more than one.
        outputs: Names and declared types of the results.
    """

    kind: str
    name: str
    inputs: Mapping[str, tuple[str | Constant, ...]]
    outputs: tuple[NamedType, ...]

    def __str__(self) -> str:
        named = ", ".join(f"`{output.name}`" for output in self.outputs)
        return f"`{self.kind}` with output {named}"


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One input or output in the model's description, which an app uses.

    Attributes:
        name: Name of the tensor.
        type: Declared type.
        image: Whether it is an RGB image. An app passes a pixel buffer; the program gets a float
            tensor 1x3xHxW from 0 to 255. Scale and bias are ops of the program.
    """

    name: str
    type: TensorType
    image: bool = False


@dataclass(frozen=True, kw_only=True)
class Program:
    """One function of a package.

    Attributes:
        function: Name of the function, such as `main`.
        opset: Version of the ops, such as `CoreML7`.
        inputs: Inputs in the order of the description.
        outputs: Outputs in the order of the description.
        operations: Ops in the order of the file, `const` included.
    """

    function: str
    opset: str
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    operations: tuple[Operation, ...]


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the numpy dtype that stores a declared dtype; sub-byte integers take a byte."""
    import numpy as np

    if name.startswith("uint") and int(name[4:]) < 8:
        return np.dtype(np.uint8)
    if name == "int4":
        return np.dtype(np.int8)
    return np.dtype(name)
