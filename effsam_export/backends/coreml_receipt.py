"""Proof that a saved ML program computes in the precisions that were asked for."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from effsam_export.backends.receipt import check_precision
from effsam_export.errors import CheckFailed
from effsam_export.mil import read
from effsam_export.mil.program import Constant

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from effsam_export.backends.coreml_convert import Conversion, Origin
    from effsam_export.mil.program import Program

FP16_MAX = 65504.0


def receipt(
    package: Path, conversion: Conversion, origins: Mapping[str, Origin]
) -> tuple[dict[str, int], dict[str, int]]:
    """Constants by dtype and operations by kind of a saved package, once they are as asked.

    Operations that compute in FP32 inside an FP16 program are counted apart, as `softmax float32`.
    Several functions share their constants: those of the first are counted.
    """
    component = conversion.component.name
    counted: list[dict[str, int]] = []
    ops = Counter[str]()
    for name, origin in origins.items():
        program = read.load(package, name)
        counted.append(read.count_constants(program))
        check_precision(
            component, conversion.precision, counted[-1], kept_fp32=origin.kept.constants
        )
        if conversion.precision == "fp16":
            _check_kept(component, program, origin)
        ops.update(_kinds(program, apart=conversion.precision == "fp16"))
    return dict(sorted(counted[0].items())), dict(sorted(ops.items()))


def _kinds(program: Program, *, apart: bool) -> Counter[str]:
    alone = _in_fp32(program) if apart else {}
    return Counter(
        f"{op.kind} float32" if op.outputs[0].name in alone else op.kind
        for op in program.operations
        if op.kind != "const"
    )


def _in_fp32(program: Program) -> dict[str, str]:
    """Operations whose result is float32, casts apart: name of the first output -> kind."""
    return {
        op.outputs[0].name: op.kind
        for op in program.operations
        if op.kind not in ("const", "cast") and any(o.type.dtype == "float32" for o in op.outputs)
    }


def _check_kept(component: str, program: Program, origin: Origin) -> None:
    """Compare what computes in FP32 in a saved function with what the recipe keeps there.

    Raises:
        CheckFailed: Something else computes in FP32, or something of the recipe does not.
    """
    found, forced = _in_fp32(program), _past_fp16(program)
    strangers = [n for n in found if n not in origin.operations and n not in forced]
    rounded = [
        op.outputs[0].name
        for op in program.operations
        if op.outputs[0].name in origin.operations
        and op.kind not in ("const", "cast")
        and any(o.type.dtype == "float16" for o in op.outputs)
    ]
    problems = [f"`{n}` ({found[n]}) computes in fp32 and should not" for n in strangers]
    problems += [f"`{n}` computes in fp16 and the recipe keeps it in fp32" for n in rounded]
    if problems:
        raise CheckFailed(f"{component}: {'; '.join(problems[:5])}")


def _past_fp16(program: Program) -> set[str]:
    """Operations with a constant that FP16 cannot hold, by first output.

    coremltools leaves them in FP32 of its own accord (`FP16ComputePrecision.fp16_overflow`), and
    is right: the other choice is infinity.
    """
    given = {
        op.outputs[0].name: op.inputs["val"][0] for op in program.operations if op.kind == "const"
    }
    forced = set()
    for op in program.operations:
        for value in (v for bound in op.inputs.values() for v in bound):
            held = value if isinstance(value, Constant) else given.get(value)
            if isinstance(held, Constant) and _largest(held) > FP16_MAX:
                forced.add(op.outputs[0].name)
    return forced


def _largest(constant: Constant) -> float:
    """Greatest finite magnitude of a float32 constant; 0 for any other."""
    if isinstance(constant.data, str) or constant.type.dtype != "float32":
        return 0.0
    magnitudes = np.abs(constant.data)
    return float(np.max(magnitudes, where=magnitudes < 1e38, initial=0.0))
