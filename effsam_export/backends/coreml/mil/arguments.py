"""The operands of one op about to run, read strictly: what no one reads is an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from effsam_export.backends.coreml.mil.program import Constant, Operation
from effsam_export.backends.coreml.mil.rounding import Steps
from effsam_export.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    Value = Tensor | Constant


class Arguments:
    """Operands by parameter.

    Args:
        operation: The op.
        values: Every value alive, by name.
        pessimistic: See `rounding.py`.
    """

    def __init__(
        self, operation: Operation, values: Mapping[str, Value], *, pessimistic: bool
    ) -> None:
        self.operation = operation
        self.pessimistic = pessimistic
        self._values = values
        self._unread = set(operation.inputs)

    def has(self, name: str) -> bool:
        """Whether the file gives a parameter, for those without a default."""
        return name in self.operation.inputs

    def tensor(self, name: str, like: Tensor | None = None) -> Tensor:
        """A required operand, which has the dtype of `like` if that is given."""
        found = self._one(name)
        tensor = to_torch(found) if isinstance(found, Constant) else found
        if like is not None and tensor.dtype != like.dtype:
            raise self.refuse(
                f"has operands of two dtypes: `{name}` is {_name(tensor)}, want {_name(like)}"
            )
        return tensor

    def optional(self, name: str, like: Tensor | None = None) -> Tensor | None:
        """An operand that the file may leave out."""
        return self.tensor(name, like) if self.has(name) else None

    def tensors(self, name: str) -> list[Tensor]:
        """The operands of a tuple parameter, all of one dtype."""
        found = [to_torch(v) if isinstance(v, Constant) else v for v in self._bound(name)]
        if not found or len({tensor.dtype for tensor in found}) != 1:
            raise self.refuse(f"takes `{name}` of {len(found)} values, or of several dtypes")
        return found

    def constant(self, name: str) -> Constant:
        """A required operand that the file holds itself."""
        found = self._one(name)
        if not isinstance(found, Constant):
            raise self.refuse(f"needs `{name}` as a constant")
        return found

    def integers(self, name: str, default: Sequence[int] | None = None) -> list[int]:
        """A vector of integers, constant or computed."""
        if not self.has(name) and default is not None:
            return list(default)
        values = self._small(name)
        if values.dtype.kind not in "iu" or values.ndim != 1:
            raise self.refuse(f"needs `{name}` as a vector of integers")
        return [int(value) for value in values]

    def flags(self, name: str, length: int) -> list[bool]:
        """A vector of that many booleans, all False where the file gives none."""
        if not self.has(name):
            return [False] * length
        values = self._small(name)
        if values.dtype.kind != "b" or values.shape != (length,):
            raise self.refuse(f"needs `{name}` as {length} booleans")
        return [bool(value) for value in values]

    def integer(self, name: str, default: int | None = None) -> int:
        """One integer."""
        return int(self._scalar(name, default, "iu", "an integer"))

    def flag(self, name: str, default: bool | None = None) -> bool:
        """One boolean."""
        return bool(self._scalar(name, default, "b", "a boolean"))

    def number(self, name: str, default: float | None = None) -> float:
        """One real number, an integer among them."""
        return float(self._scalar(name, default, "iuf", "a number"))

    def word(self, name: str, choices: Sequence[str], default: str | None = None) -> str:
        """One of the words that are implemented."""
        if not self.has(name) and default is not None:
            return default
        found = self._one(name)
        word = found.data if isinstance(found, Constant) else None
        if word not in choices:
            said = word if isinstance(word, str) else "not a word"
            raise self.refuse(f"has `{name}` `{said}`, want {' or '.join(choices)}")
        return str(word)

    def axis(self, name: str, rank: int, default: int | None = None) -> int:
        """One axis of a tensor of that rank, counted from the front."""
        return self._in_range(name, self.integer(name, default), rank)

    def axes(self, name: str, rank: int, default: Sequence[int] | None = None) -> list[int]:
        """Axes of a tensor of that rank, counted from the front, each once."""
        axes = [self._in_range(name, axis, rank) for axis in self.integers(name, default)]
        if len(set(axes)) != len(axes):
            raise self.refuse(f"names an axis twice in `{name}`")
        return axes

    def steps(self, like: Tensor) -> Steps:
        """The rounding of a compound op of the dtype of `like`."""
        return Steps(like, pessimistic=self.pessimistic)

    def refuse(self, reason: str) -> UsageError:
        """The error to raise for an op that is not evaluated as the file has it."""
        return UsageError(f"the {self.operation} {reason}")

    def check_all_read(self) -> None:
        """Raises if the file gives a parameter that the op's function does not know."""
        if self._unread:
            names = ", ".join(f"`{name}`" for name in sorted(self._unread))
            raise self.refuse(f"has parameters that are not evaluated: {names}")

    def _bound(self, name: str) -> list[Value]:
        if name not in self.operation.inputs:
            raise self.refuse(f"lacks `{name}`")
        self._unread.discard(name)
        return [
            self._values[bound] if isinstance(bound, str) else bound
            for bound in self.operation.inputs[name]
        ]

    def _one(self, name: str) -> Value:
        bound = self._bound(name)
        if len(bound) != 1:
            raise self.refuse(f"takes {len(bound)} values as `{name}`, want one")
        return bound[0]

    def _small(self, name: str) -> np.ndarray[Any, Any]:
        found = self._one(name)
        data = found.data if isinstance(found, Constant) else found.numpy()
        return np.asarray(data)

    def _scalar(self, name: str, default: float | None, kinds: str, wanted: str) -> float:
        if not self.has(name) and default is not None:
            return default
        value = self._small(name)
        if value.dtype.kind not in kinds or value.size != 1:
            raise self.refuse(f"needs `{name}` as {wanted}")
        return float(value.reshape(())[()])

    def _in_range(self, name: str, axis: int, rank: int) -> int:
        if not -rank <= axis < rank:
            raise self.refuse(f"has `{name}` {axis}, but its operand has {rank} axes")
        return axis % rank


def to_torch(constant: Constant) -> Tensor:
    """A copy of a constant as a tensor; sub-byte integers take a byte each.

    Raises:
        UsageError: It is a string.
    """
    if isinstance(constant.data, str):
        raise UsageError(f"the string `{constant.data}` stands where a tensor should")
    return torch.from_numpy(np.array(constant.data))


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
