"""The nouns: one function of a saved MIL program. No protobuf, no torch."""

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
        dtype: Name as in numpy (`float16`, `int32`, `bool`), or `string`, or a sub-byte integer
            such as `uint4`.
        shape: Sizes; None is a size known only at run time. Empty for a scalar.
    """

    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.dtype} [{sizes}]"

    def fits(self, dtype: str, shape: tuple[int, ...]) -> bool:
        """Whether a value of that dtype and shape is of this type."""
        return (
            dtype == self.dtype
            and len(shape) == len(self.shape)
            and all(want in (None, found) for want, found in zip(self.shape, shape, strict=True))
        )


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A value in the file.

    Attributes:
        data: In the declared shape. Elements of sub-byte integers take a byte each (int8, uint8).
            A string is a `str`.
    """

    type: TensorType
    data: NDArray[Any] | str


@dataclass(frozen=True, kw_only=True)
class Named:
    """A value and the type the file declares for it."""

    name: str
    type: TensorType


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One line of a program.

    Attributes:
        kind: MIL's name of the op, such as `conv`.
        name: The op's own name, for messages.
        inputs: Parameter -> what it is bound to: names of earlier values, or constants. Where a
            parameter is not a tuple (as in `concat`), one.
        outputs: What it gives, with the declared types.
    """

    kind: str
    name: str
    inputs: Mapping[str, tuple[str | Constant, ...]]
    outputs: tuple[Named, ...]

    def __str__(self) -> str:
        named = ", ".join(f"`{output.name}`" for output in self.outputs)
        return f"`{self.kind}` that gives {named}"


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One input or output as the model's description shows it to an app.

    Attributes:
        image: An RGB picture: to the app a pixel buffer, to the program a float tensor 1x3xHxW of
            0 to 255. Scale and bias are ops of the program.
    """

    name: str
    type: TensorType
    image: bool = False


@dataclass(frozen=True, kw_only=True)
class Program:
    """One function of a package.

    Attributes:
        function: Its name, such as `main`.
        opset: Such as `CoreML7`.
        operations: In the order of the file, `const` among them.
    """

    function: str
    opset: str
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    operations: tuple[Operation, ...]


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The dtype in which elements of a declared dtype are held; a byte each below eight bits."""
    import numpy as np

    if name.startswith("uint") and int(name[4:]) < 8:
        return np.dtype(np.uint8)
    if name == "int4":
        return np.dtype(np.int8)
    return np.dtype(name)
