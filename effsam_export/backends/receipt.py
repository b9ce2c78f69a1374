"""Proof that the precision asked for is the precision in the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.errors import CheckFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.spec import Precision

EXPECTED_FLOAT: dict[Precision, str] = {"fp32": "float32", "fp16": "float16"}
MIN_SHARE = 0.99
"""Share of the floating-point constants that must have the asked dtype.

Not 1: a toolchain may keep a scalar it needs in FP32 (an epsilon, the inputs' normalisation).
"""


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
