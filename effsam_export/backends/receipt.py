"""Proof that the precision asked for is the precision in the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.errors import CheckFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.spec.targets import Precision

EXPECTED_FLOAT: dict[Precision, str] = {"fp32": "float32", "fp16": "float16"}
MIN_SHARE = 0.99
"""Share of the floating-point constants that must have the asked dtype.

Not 1: a toolchain may keep a scalar it needs in FP32 (an epsilon, the inputs' normalisation).
"""

MIN_INT8_SHARE = 0.5
"""Share of the constants that must be INT8: a recipe may leave layers in FP16, and a model may keep
large tables (positions, attention biases), but one that is mostly floating is not an INT8 file."""
MAX_FP32_SHARE = 0.1
"""Scales, biases and norms, which quantizers store in FP32."""


def check_precision(
    component: str, asked: Precision, counts: Mapping[str, int], *, kept_fp32: int = 0
) -> None:
    """Compare the constants of a re-opened file with the precision that was asked.

    Args:
        component: Name for the message.
        asked: Precision of the target profile.
        counts: Elements of the file's constants by numpy dtype name.
        kept_fp32: Elements that a precision recipe keeps in FP32: so many are not held against the
            file.

    Raises:
        CheckFailed: Too few floating-point constants have the asked dtype, with the counts.
    """
    if asked == "int8":
        check_int8(component, counts)
        return
    expected = EXPECTED_FLOAT[asked]
    floats = {k: v for k, v in counts.items() if k.startswith(("float", "bfloat"))}
    excused = min(kept_fp32, floats.get("float32", 0)) if expected != "float32" else 0
    total = sum(floats.values()) - excused
    share = floats.get(expected, 0) / total if total else 0.0
    if share < MIN_SHARE:
        found = ", ".join(f"{v} {k}" for k, v in sorted(floats.items())) or "no float constants"
        raise CheckFailed(
            f"{component}: asked for {asked}, but the file holds {found} "
            f"({share:.2%} {expected}, want {MIN_SHARE:.0%})"
        )


def check_int8(component: str, counts: Mapping[str, int]) -> None:
    """Check that a file holds INT8 weights, and that what stayed floating is stored in FP16.

    Raises:
        CheckFailed: Most constants are something else, with the counts.
    """
    eight = sum(counts.get(k, 0) for k in ("int8", "uint8"))
    floats = {k: v for k, v in counts.items() if k.startswith(("float", "bfloat"))}
    total = eight + sum(floats.values())
    share = eight / total if total else 0.0
    if share < MIN_INT8_SHARE or floats.get("float32", 0) > MAX_FP32_SHARE * total:
        found = ", ".join(f"{v} {k}" for k, v in sorted(counts.items())) or "no constants"
        raise CheckFailed(
            f"{component}: asked for int8, but the file holds {found} ({share:.2%} INT8, "
            f"want {MIN_INT8_SHARE:.0%}, and at most {MAX_FP32_SHARE:.0%} float32)"
        )
