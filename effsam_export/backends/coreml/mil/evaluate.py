"""Evaluate a program op by op, in the dtypes that the file declares.

`rounding.py` states the assumptions about a device's arithmetic. An unknown op, parameter or mode
is an error, and so is a result that does not have its declared type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from effsam_export.backends.coreml.mil.arguments import Arguments
from effsam_export.backends.coreml.mil.ops import OPS
from effsam_export.backends.coreml.mil.program import Constant, Feature, Operation, Program
from effsam_export.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Array = np.ndarray[Any, Any]

IMAGE_AXES = (2, 0, 1)
"""HxWx3 -> 3xHxW."""


def run(
    program: Program,
    feeds: Mapping[str, Array],
    *,
    pessimistic: bool = True,
    watch: Callable[[str, Tensor], None] | None = None,
) -> dict[str, Array]:
    """Run a program and return its outputs by name.

    Args:
        program: Program of `read.load`.
        feeds: Every input by name, in the declared shape and dtype. An RGB image is either 1x3xHxW
            (0 to 255) in the declared dtype or uint8 HxWx3.
        pessimistic: Round to FP16 inside compound FP16 ops, see `rounding.py`.
        watch: Called with name and value of every input and every computed result, in the program's
            order. It must not change them.

    Raises:
        UsageError: The feeds do not match the program's inputs, or an op, parameter or mode is not
            supported. The message lists all wrong feeds or all unsupported ops.
        CheckFailed: A result does not have the declared shape and dtype.
    """
    values: dict[str, Tensor | Constant] = dict(_feed(program, feeds))
    unknown = sorted({op.kind for op in program.operations} - {*OPS, "const"})
    if unknown:
        first = next(op for op in program.operations if op.kind == unknown[0])
        known = ", ".join(f"`{kind}`" for kind in unknown)
        raise UsageError(f"the program has unsupported ops: {known} (first the {first})")
    last_use = _last_uses(program)
    with torch.inference_mode():
        _show(values, watch)
        for index, op in enumerate(program.operations):
            results = _results(op, values, pessimistic=pessimistic)
            _show(results, watch)
            # Values are freed after their last use.
            values.update({n: r for n, r in results.items() if last_use.get(n, -1) > index})
            for name in _named(op):
                if last_use[name] == index:
                    del values[name]
    return {output.name: _to_numpy(values[output.name]) for output in program.outputs}


def _show(
    values: Mapping[str, Tensor | Constant], watch: Callable[[str, Tensor], None] | None
) -> None:
    if watch is None:
        return
    for name, value in values.items():
        if isinstance(value, Tensor):
            watch(name, value)


def _last_uses(program: Program) -> dict[str, int]:
    """Return the index of the last op that reads each value; outputs are never freed."""
    last: dict[str, int] = {}
    for index, op in enumerate(program.operations):
        last.update(dict.fromkeys(_named(op), index))
    last.update({output.name: len(program.operations) for output in program.outputs})
    return last


def _named(op: Operation) -> set[str]:
    """Return the names of the values that an op reads."""
    return {value for bound in op.inputs.values() for value in bound if isinstance(value, str)}


def _results(
    op: Operation, values: Mapping[str, Tensor | Constant], *, pessimistic: bool
) -> dict[str, Tensor | Constant]:
    """Evaluate one op; return its results by name, checked against their declared types."""
    arguments = Arguments(op, values, pessimistic=pessimistic)
    found: tuple[Tensor | Constant, ...]
    if op.kind == "const":
        found = (arguments.constant("val"),)
    else:
        try:
            result = OPS[op.kind](arguments)
        except (RuntimeError, IndexError, ValueError) as error:
            # torch refused the operands.
            reason = str(error).splitlines()[0]
            raise UsageError(f"the {op} cannot be evaluated: {reason}") from error
        found = (result,) if isinstance(result, Tensor) else tuple(result)
    arguments.check_all_read()
    if len(found) != len(op.outputs):
        raise CheckFailed(f"the {op} declares {len(op.outputs)} outputs, but has {len(found)}")
    for output, value in zip(op.outputs, found, strict=True):
        dtype, shape = _type_of(value)
        if not output.type.fits(dtype, shape):
            raise CheckFailed(
                f"the {op} computes {dtype} {list(shape)} for `{output.name}`, "
                f"but the file declares {output.type}"
            )
    return {output.name: value for output, value in zip(op.outputs, found, strict=True)}


def _type_of(value: Tensor | Constant) -> tuple[str, tuple[int, ...]]:
    if isinstance(value, Tensor):
        return str(value.dtype).removeprefix("torch."), tuple(value.shape)
    shape = () if isinstance(value.data, str) else value.data.shape
    return value.type.dtype, shape


def _feed(program: Program, feeds: Mapping[str, Array]) -> dict[str, Tensor]:
    expected = [feature.name for feature in program.inputs]
    if sorted(expected) != sorted(feeds):
        raise UsageError(f"the program takes {expected}, but the feeds are {list(feeds)}")
    problems = []
    tensors = {}
    for feature in program.inputs:
        value = _as_tensor(feature, feeds[feature.name])
        if feature.type.fits(value.dtype.name, value.shape):
            tensors[feature.name] = torch.from_numpy(np.array(value))
        else:
            problems.append(
                f"`{feature.name}` is {value.dtype.name} {list(value.shape)}, "
                f"expected {feature.type}"
            )
    if problems:
        raise UsageError("; ".join(problems))
    return tensors


def _as_tensor(feature: Feature, value: Array) -> Array:
    """Convert a uint8 image to the tensor that Core ML makes of it; return other values as is."""
    if feature.image and value.dtype == np.uint8 and value.ndim == 3:
        image: Array = value.transpose(IMAGE_AXES)[None].astype(feature.type.dtype)
        return image
    return value


def _to_numpy(value: Tensor | Constant) -> Array:
    found: Array = np.array(value.data if isinstance(value, Constant) else value.numpy())
    return found
