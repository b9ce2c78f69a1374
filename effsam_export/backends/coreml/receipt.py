"""Count the constants and operations of a saved ML program, and check their precision.

The counts read back from a saved file are an artefact's receipt, see `backends/receipt.py`.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from effsam_export.backends.coreml.mil import read
from effsam_export.backends.coreml.mil.program import Constant
from effsam_export.backends.receipt import check_precision
from effsam_export.errors import CheckFailed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from effsam_export.backends.coreml.convert import Conversion, Origin
    from effsam_export.backends.coreml.mil.program import Operation, Program

FP16_MAX = 65504.0
"""Largest finite FP16 value."""


def receipt(
    package: Path, conversion: Conversion, origins: Mapping[str, Origin]
) -> tuple[dict[str, int], dict[str, int]]:
    """Check the precision of a saved package and return its counts.

    Functions share their constants, so only those of the first function are counted.

    Returns:
        Constant elements by dtype, and operations by kind. FP32 operations of an FP16 program are
        counted separately, for example as `softmax float32`.

    Raises:
        CheckFailed: The precision of constants or operations is not that of the conversion.
    """
    component, fp16 = conversion.component.name, conversion.precision == "fp16"
    counted: list[dict[str, int]] = []
    ops = Counter[str]()
    for name, origin in origins.items():
        program = read.load(package, name)
        counted.append(read.count_constants(program))
        check_precision(
            component,
            conversion.precision,
            counted[-1],
            fp32_by_recipe=_fp32_constants(program, origin) if fp16 else 0,
        )
        if fp16:
            check_fp32_operations(component, program, origin)
        ops.update(_kinds(program, separate_fp32=fp16))
    return dict(sorted(counted[0].items())), dict(sorted(ops.items()))


def check_fp32_operations(component: str, program: Program, origin: Origin) -> None:
    """Compare the FP32 operations of an FP16 function with those that its recipe keeps in FP32.

    Raises:
        CheckFailed: Another operation computes in FP32, or one of the recipe computes in FP16.
    """
    in_fp32 = _in_fp32(program)
    forced = _forced_fp32(program)
    problems = [
        f"`{_first(op)}` ({op.kind}) computes in fp32, and no recipe keeps it there"
        for op in in_fp32
        if _first(op) not in origin.operations | forced
    ]
    problems += [
        f"`{_first(op)}` computes in fp16, and the recipe keeps it in fp32"
        for op in _computing(program)
        if _first(op) in origin.operations and any(o.type.dtype == "float16" for o in op.outputs)
    ]
    if problems:
        raise CheckFailed(f"{component}: {'; '.join(problems[:5])}")


def _first(op: Operation) -> str:
    return op.outputs[0].name


def _computing(program: Program) -> tuple[Operation, ...]:
    """Return the operations that compute when the program runs."""
    return tuple(
        op
        for op in program.operations
        if op.kind not in ("const", "cast") and not op.kind.startswith("constexpr_")
    )


def _in_fp32(program: Program) -> tuple[Operation, ...]:
    """Return the computing operations with a float32 result."""
    return tuple(
        op for op in _computing(program) if any(o.type.dtype == "float32" for o in op.outputs)
    )


def _kinds(program: Program, *, separate_fp32: bool) -> Counter[str]:
    in_fp32 = {_first(op) for op in _in_fp32(program)} if separate_fp32 else set()
    return Counter(
        f"{op.kind} float32" if _first(op) in in_fp32 else op.kind
        for op in program.operations
        if op.kind != "const"
    )


def _fp32_constants(program: Program, origin: Origin) -> int:
    """Return the number of float32 elements that operations kept in FP32 read."""
    allowed = origin.operations | _forced_fp32(program)
    constants = _constants_by_user(program)
    read_there = {
        id(c): c for op in _in_fp32(program) if _first(op) in allowed for c in constants[_first(op)]
    }
    return sum(
        c.data.size
        for c in read_there.values()
        if not isinstance(c.data, str) and c.type.dtype == "float32"
    )


def _forced_fp32(program: Program) -> set[str]:
    """Return the first outputs of operations with a constant that overflows FP16.

    coremltools keeps them in FP32 itself (`FP16ComputePrecision.fp16_overflow`).
    """
    by_user = _constants_by_user(program)
    return {
        name
        for name, constants in by_user.items()
        if any(_largest(c) > FP16_MAX for c in constants)
    }


def _constants_by_user(program: Program) -> dict[str, list[Constant]]:
    """Return the constants that each operation reads, inline or by name, by its first output."""
    named = {_first(op): op.inputs["val"][0] for op in program.operations if op.kind == "const"}
    users = {}
    for op in _computing(program):
        values = [v for bound in op.inputs.values() for v in bound]
        found = [named.get(v) if isinstance(v, str) else v for v in values]
        users[_first(op)] = [c for c in found if isinstance(c, Constant)]
    return users


def _largest(constant: Constant) -> float:
    """Return the largest finite magnitude of a float32 constant, or 0 for another dtype."""
    if isinstance(constant.data, str) or constant.type.dtype != "float32":
        return 0.0
    magnitudes = np.abs(constant.data)
    return float(np.max(magnitudes, where=magnitudes < 1e38, initial=0.0))
