"""Check the precision of an artefact by the constants read back from its file.

An artefact's receipt is the number of constant elements by dtype and of operators by kind. Both are
counted in the re-opened file, not in the graph that the converter was given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.errors import CheckFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.spec.targets import Precision

EXPECTED_FLOAT: dict[Precision, str] = {
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
}
MIN_SHARE = 0.99
"""Minimum share of the floating-point elements that must have the target's dtype.

Not 1: a toolchain may keep scalars in FP32 (an epsilon, the normalisation of the input).
"""

MIN_INT8_SHARE = 0.5
"""Minimum share of the elements that must be INT8.

A recipe may keep layers in FP16, and a model may have large tables (positions, attention biases).
"""
MAX_FP32_SHARE = 0.1
"""Maximum share of FP32 elements: scales, biases and norms, which quantizers store in FP32."""


def check_precision(
    component: str, precision: Precision, counts: Mapping[str, int], *, fp32_by_recipe: int = 0
) -> None:
    """Compare the constants of a re-opened file with the precision of its target.

    Args:
        component: Name for the message.
        precision: Precision of the target profile.
        counts: Elements of the file's constants by numpy dtype name.
        fp32_by_recipe: FP32 elements that an FP16 recipe or BF16 allows; left out of the share.

    Raises:
        CheckFailed: Too few floating-point elements have the dtype of the precision.
    """
    if precision == "int8":
        check_int8(component, counts)
        return
    expected = EXPECTED_FLOAT[precision]
    floats = {k: v for k, v in counts.items() if k.startswith(("float", "bfloat"))}
    allowed = min(fp32_by_recipe, floats.get("float32", 0)) if expected != "float32" else 0
    total = sum(floats.values()) - allowed
    share = floats.get(expected, 0) / total if total else 0.0
    if share < MIN_SHARE:
        found = (
            ", ".join(f"{v} {k}" for k, v in sorted(floats.items()))
            or "no floating-point constants"
        )
        raise CheckFailed(
            f"{component}: the precision is {precision}, but the file holds {found} "
            f"({share:.2%} {expected}, minimum {MIN_SHARE:.0%})"
        )


def check_int8(component: str, counts: Mapping[str, int]) -> None:
    """Check that most constants of a file are INT8 and that few are FP32.

    Raises:
        CheckFailed: Too few elements are INT8, or too many are FP32.
    """
    int8 = sum(counts.get(k, 0) for k in ("int8", "uint8"))
    floats = {k: v for k, v in counts.items() if k.startswith(("float", "bfloat"))}
    total = int8 + sum(floats.values())
    share = int8 / total if total else 0.0
    if share < MIN_INT8_SHARE or floats.get("float32", 0) > MAX_FP32_SHARE * total:
        found = ", ".join(f"{v} {k}" for k, v in sorted(counts.items())) or "no constants"
        raise CheckFailed(
            f"{component}: the precision is int8, but the file holds {found} ({share:.2%} INT8, "
            f"minimum {MIN_INT8_SHARE:.0%}; at most {MAX_FP32_SHARE:.0%} may be float32)"
        )
