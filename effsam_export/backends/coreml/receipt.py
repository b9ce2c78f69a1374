"""Proof that a saved ML program computes in the precisions that were asked for."""

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


def receipt(
    package: Path, conversion: Conversion, origins: Mapping[str, Origin]
) -> tuple[dict[str, int], dict[str, int]]:
    """Constants by dtype and operations by kind of a saved package, once they are as asked.

    Operations that compute in FP32 inside an FP16 program are counted apart, as `softmax float32`.
    Several functions share their constants: those of the first are counted.

    Raises:
        CheckFailed: Constants or operations have another precision than was asked.
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
            kept_fp32=_kept_constants(program, origin) if fp16 else 0,
        )
        if fp16:
            check_kept(component, program, origin)
        ops.update(_kinds(program, apart=fp16))
    return dict(sorted(counted[0].items())), dict(sorted(ops.items()))


def check_kept(component: str, program: Program, origin: Origin) -> None:
    """Compare what computes in FP32 in a saved function with what the recipe keeps there.

    Raises:
        CheckFailed: Something else computes in FP32, or something of the recipe does not.
    """
    alone = _in_fp32(program)
    forced = _past_fp16(program)
    problems = [
        f"`{_first(op)}` ({op.kind}) computes in fp32 and should not"
        for op in alone
        if _first(op) not in origin.operations | forced
    ]
    problems += [
        f"`{_first(op)}` computes in fp16 and the recipe keeps it in fp32"
        for op in _computing(program)
        if _first(op) in origin.operations and any(o.type.dtype == "float16" for o in op.outputs)
    ]
    if problems:
        raise CheckFailed(f"{component}: {'; '.join(problems[:5])}")


def _first(op: Operation) -> str:
    return op.outputs[0].name


def _computing(program: Program) -> tuple[Operation, ...]:
    """The operations that do arithmetic when the program runs."""
    return tuple(
        op
        for op in program.operations
        if op.kind not in ("const", "cast") and not op.kind.startswith("constexpr_")
    )


def _in_fp32(program: Program) -> tuple[Operation, ...]:
    """Those whose result is float32."""
    return tuple(
        op for op in _computing(program) if any(o.type.dtype == "float32" for o in op.outputs)
    )


def _kinds(program: Program, *, apart: bool) -> Counter[str]:
    alone = {_first(op) for op in _in_fp32(program)} if apart else set()
    return Counter(
        f"{op.kind} float32" if _first(op) in alone else op.kind
        for op in program.operations
        if op.kind != "const"
    )


def _kept_constants(program: Program, origin: Origin) -> int:
    """Elements of the float32 constants that only stay so because FP32 was asked of their users."""
    allowed = origin.operations | _past_fp16(program)
    held = _constants_by_user(program)
    read_there = {
        id(c): c for op in _in_fp32(program) if _first(op) in allowed for c in held[_first(op)]
    }
    return sum(
        c.data.size
        for c in read_there.values()
        if not isinstance(c.data, str) and c.type.dtype == "float32"
    )


def _past_fp16(program: Program) -> set[str]:
    """Operations with a constant that FP16 cannot hold, by first output.

    coremltools leaves them in FP32 of its own accord (`FP16ComputePrecision.fp16_overflow`), and
    is right: the other choice is infinity.
    """
    held = _constants_by_user(program)
    return {
        name for name, constants in held.items() if any(_largest(c) > FP16_MAX for c in constants)
    }


def _constants_by_user(program: Program) -> dict[str, list[Constant]]:
    """The constants each operation reads, by its first output: written there, or named."""
    named = {_first(op): op.inputs["val"][0] for op in program.operations if op.kind == "const"}
    users = {}
    for op in _computing(program):
        values = [v for bound in op.inputs.values() for v in bound]
        found = [named.get(v) if isinstance(v, str) else v for v in values]
        users[_first(op)] = [c for c in found if isinstance(c, Constant)]
    return users


def _largest(constant: Constant) -> float:
    """Greatest finite magnitude of a float32 constant; 0 for any other."""
    if isinstance(constant.data, str) or constant.type.dtype != "float32":
        return 0.0
    magnitudes = np.abs(constant.data)
    return float(np.max(magnitudes, where=magnitudes < 1e38, initial=0.0))
