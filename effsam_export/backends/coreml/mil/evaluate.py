"""A program and its inputs to its outputs, op by op, in the dtypes the file declares.

What it assumes about a device's arithmetic is in `rounding.py`. Whatever it does not know it
refuses, and a result that is not of the type the file declares is an error: no run passes by luck.
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
    """The outputs of a program by the names its description shows.

    Args:
        program: From `read.load`.
        feeds: Every input by name, in the declared shape and dtype; a picture either so (1x3xHxW,
            0 to 255) or as uint8 HxWx3 RGB.
        pessimistic: Round to FP16 inside compound FP16 ops, see `rounding.py`.
        watch: Shown every input and every result that is no constant, by name, in the program's
            order; not to be changed.

    Raises:
        UsageError: Feeds that are not the program's inputs; an op, parameter or mode that is not
            evaluated. All wrong feeds and unknown kinds of op are named at once.
        CheckFailed: A result is not of the shape and dtype the file declares.
    """
    values: dict[str, Tensor | Constant] = dict(_feed(program, feeds))
    unknown = sorted({op.kind for op in program.operations} - {*OPS, "const"})
    if unknown:
        first = next(op for op in program.operations if op.kind == unknown[0])
        known = ", ".join(f"`{kind}`" for kind in unknown)
        raise UsageError(f"the program has ops that are not evaluated: {known} (the {first})")
    last_use = _last_uses(program)
    with torch.inference_mode():
        _show(values, watch)
        for index, op in enumerate(program.operations):
            results = _results(op, values, pessimistic=pessimistic)
            _show(results, watch)
            # Neither results that nothing reads nor operands that were read last are kept.
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
    """The op after which each value can be freed; outputs are kept."""
    last: dict[str, int] = {}
    for index, op in enumerate(program.operations):
        last.update(dict.fromkeys(_named(op), index))
    last.update({output.name: len(program.operations) for output in program.outputs})
    return last


def _named(op: Operation) -> set[str]:
    """The values that an op reads."""
    return {value for bound in op.inputs.values() for value in bound if isinstance(value, str)}


def _results(
    op: Operation, values: Mapping[str, Tensor | Constant], *, pessimistic: bool
) -> dict[str, Tensor | Constant]:
    """What one op gives, by name, each of its declared type."""
    arguments = Arguments(op, values, pessimistic=pessimistic)
    found: tuple[Tensor | Constant, ...]
    if op.kind == "const":
        found = (arguments.constant("val"),)
    else:
        try:
            result = OPS[op.kind](arguments)
        except (RuntimeError, IndexError, ValueError) as error:
            # torch's own refusal of operands that do not go together.
            reason = str(error).splitlines()[0]
            raise UsageError(f"the {op} cannot be evaluated: {reason}") from error
        found = (result,) if isinstance(result, Tensor) else tuple(result)
    arguments.check_all_read()
    if len(found) != len(op.outputs):
        raise CheckFailed(f"the {op} has {len(op.outputs)} declared outputs, but {len(found)} come")
    for output, value in zip(op.outputs, found, strict=True):
        dtype, shape = _type_of(value)
        if not output.type.fits(dtype, shape):
            raise CheckFailed(
                f"the {op} gives {dtype} {list(shape)} as `{output.name}`, "
                f"but the file declares {output.type}"
            )
    return {output.name: value for output, value in zip(op.outputs, found, strict=True)}


def _type_of(value: Tensor | Constant) -> tuple[str, tuple[int, ...]]:
    if isinstance(value, Tensor):
        return str(value.dtype).removeprefix("torch."), tuple(value.shape)
    shape = () if isinstance(value.data, str) else value.data.shape
    return value.type.dtype, shape


def _feed(program: Program, feeds: Mapping[str, Array]) -> dict[str, Tensor]:
    wanted = [feature.name for feature in program.inputs]
    if sorted(wanted) != sorted(feeds):
        raise UsageError(f"the program takes {wanted}, but is given {list(feeds)}")
    problems = []
    tensors = {}
    for feature in program.inputs:
        value = _as_tensor(feature, feeds[feature.name])
        if feature.type.fits(value.dtype.name, value.shape):
            tensors[feature.name] = torch.from_numpy(np.array(value))
        else:
            problems.append(
                f"`{feature.name}` is {value.dtype.name} {list(value.shape)}, want {feature.type}"
            )
    if problems:
        raise UsageError("; ".join(problems))
    return tensors


def _as_tensor(feature: Feature, value: Array) -> Array:
    """A picture as the tensor Core ML makes of it; anything else as it is."""
    if feature.image and value.dtype == np.uint8 and value.ndim == 3:
        picture: Array = value.transpose(IMAGE_AXES)[None].astype(feature.type.dtype)
        return picture
    return value


def _to_numpy(value: Tensor | Constant) -> Array:
    found: Array = np.array(value.data if isinstance(value, Constant) else value.numpy())
    return found
