"""Read the operands of one op; a parameter that is never read is an error."""

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
    """The operands of one op by parameter name.

    Args:
        operation: The op.
        values: Values computed so far, by name.
        pessimistic: Round FP16 intermediates of compound ops, see `rounding.py`.
    """

    def __init__(
        self, operation: Operation, values: Mapping[str, Value], *, pessimistic: bool
    ) -> None:
        self.operation = operation
        self.pessimistic = pessimistic
        self._values = values
        self._unread = set(operation.inputs)

    def has(self, name: str) -> bool:
        """Return whether the file has an optional parameter."""
        return name in self.operation.inputs

    def tensor(self, name: str, like: Tensor | None = None) -> Tensor:
        """Return a required operand; it must have the dtype of `like` if that is given."""
        found = self._one(name)
        tensor = to_torch(found) if isinstance(found, Constant) else found
        if like is not None and tensor.dtype != like.dtype:
            raise self.refuse(
                f"has operands of two dtypes: `{name}` is {_name(tensor)}, expected {_name(like)}"
            )
        return tensor

    def optional(self, name: str, like: Tensor | None = None) -> Tensor | None:
        """Return an optional operand, or None."""
        return self.tensor(name, like) if self.has(name) else None

    def tensors(self, name: str) -> list[Tensor]:
        """Return the operands of a tuple parameter, which must have one dtype."""
        found = [to_torch(v) if isinstance(v, Constant) else v for v in self._bound(name)]
        if not found or len({tensor.dtype for tensor in found}) != 1:
            raise self.refuse(f"has no values in `{name}`, or values of several dtypes")
        return found

    def constant(self, name: str) -> Constant:
        """Return a required operand that must be a constant of the file."""
        found = self._one(name)
        if not isinstance(found, Constant):
            raise self.refuse(f"needs `{name}` as a constant")
        return found

    def integers(self, name: str, default: Sequence[int] | None = None) -> list[int]:
        """Return a vector of integers, constant or computed."""
        if not self.has(name) and default is not None:
            return list(default)
        values = self._small(name)
        if values.dtype.kind not in "iu" or values.ndim != 1:
            raise self.refuse(f"needs `{name}` as a vector of integers")
        return [int(value) for value in values]

    def flags(self, name: str, length: int) -> list[bool]:
        """Return a vector of `length` booleans; all False if the file has no such parameter."""
        if not self.has(name):
            return [False] * length
        values = self._small(name)
        if values.dtype.kind != "b" or values.shape != (length,):
            raise self.refuse(f"needs `{name}` as {length} booleans")
        return [bool(value) for value in values]

    def integer(self, name: str, default: int | None = None) -> int:
        """Return an integer."""
        return int(self._scalar(name, default, "iu", "an integer"))

    def flag(self, name: str, default: bool | None = None) -> bool:
        """Return a boolean."""
        return bool(self._scalar(name, default, "b", "a boolean"))

    def number(self, name: str, default: float | None = None) -> float:
        """Return a floating-point number; the file may have an integer."""
        return float(self._scalar(name, default, "iuf", "a number"))

    def choice(self, name: str, choices: Sequence[str], default: str | None = None) -> str:
        """Return a string, which must be one of `choices`."""
        if not self.has(name) and default is not None:
            return default
        found = self._one(name)
        choice = found.data if isinstance(found, Constant) else None
        if choice not in choices:
            text = f"`{choice}`" if isinstance(choice, str) else "that is not a string"
            raise self.refuse(f"has `{name}` {text}, supported: {', '.join(choices)}")
        return str(choice)

    def axis(self, name: str, rank: int, default: int | None = None) -> int:
        """Return an axis of a tensor of rank `rank` as a non-negative index."""
        return self._in_range(name, self.integer(name, default), rank)

    def axes(self, name: str, rank: int, default: Sequence[int] | None = None) -> list[int]:
        """Return distinct axes of a tensor of rank `rank` as non-negative indices."""
        axes = [self._in_range(name, axis, rank) for axis in self.integers(name, default)]
        if len(set(axes)) != len(axes):
            raise self.refuse(f"names an axis twice in `{name}`")
        return axes

    def steps(self, like: Tensor) -> Steps:
        """Return the rounding of a compound op that computes in the dtype of `like`."""
        return Steps(like, pessimistic=self.pessimistic)

    def refuse(self, reason: str) -> UsageError:
        """Return the error for an op that cannot be evaluated."""
        return UsageError(f"the {self.operation} {reason}")

    def check_all_read(self) -> None:
        """Raise `UsageError` if the file has a parameter that the op's function did not read."""
        if self._unread:
            names = ", ".join(f"`{name}`" for name in sorted(self._unread))
            raise self.refuse(f"has unsupported parameters: {names}")

    def _bound(self, name: str) -> list[Value]:
        if name not in self.operation.inputs:
            raise self.refuse(f"has no parameter `{name}`")
        self._unread.discard(name)
        return [
            self._values[bound] if isinstance(bound, str) else bound
            for bound in self.operation.inputs[name]
        ]

    def _one(self, name: str) -> Value:
        bound = self._bound(name)
        if len(bound) != 1:
            raise self.refuse(f"has {len(bound)} values for `{name}`, expected one")
        return bound[0]

    def _small(self, name: str) -> np.ndarray[Any, Any]:
        found = self._one(name)
        data = found.data if isinstance(found, Constant) else found.numpy()
        return np.asarray(data)

    def _scalar(self, name: str, default: float | None, kinds: str, expected: str) -> float:
        if not self.has(name) and default is not None:
            return default
        value = self._small(name)
        if value.dtype.kind not in kinds or value.size != 1:
            raise self.refuse(f"needs `{name}` as {expected}")
        return float(value.reshape(())[()])

    def _in_range(self, name: str, axis: int, rank: int) -> int:
        if not -rank <= axis < rank:
            raise self.refuse(f"has `{name}` {axis}, but its operand has {rank} axes")
        return axis % rank


def to_torch(constant: Constant) -> Tensor:
    """Copy a constant to a tensor; sub-byte integers take a byte each.

    Raises:
        UsageError: The constant is a string.
    """
    if isinstance(constant.data, str):
        raise UsageError(f"the string `{constant.data}` cannot be read as a tensor")
    return torch.from_numpy(np.array(constant.data))


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
