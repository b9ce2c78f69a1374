"""Check measurements against gates. Each failure names the value that would have passed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from effsam_export.parity.results import POINT_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from effsam_export.parity.results import CaseResult, ComparisonResult
    from effsam_export.spec.targets import Gates


def check_gates(
    gates: Gates,
    comparisons: Sequence[ComparisonResult],
    cases: Sequence[CaseResult],
    score: str = "iou_predictions",
) -> tuple[str, ...]:
    """Return a sentence for each failure; nothing if everything passed.

    Args:
        gates: The limits.
        comparisons: Components at the comparison points.
        cases: End-to-end results.
        score: Name of the output that ranks masks, for the messages.
    """
    failures = []
    if not comparisons:
        failures.append("nothing was measured")
    for comparison in comparisons:
        failures += _comparison_failures(gates, comparison)
    for case in cases:
        failures += _case_failures(gates, case, score)
    mean = sum(c.min_iou for c in cases) / len(cases) if cases else 1.0
    if not mean >= gates.mean_iou:
        failures.append(
            f"end to end: mean IoU of {len(cases)} prompts is {mean:.6f}, want {gates.mean_iou:g} "
            f"(mean_iou = {_below(mean)} would have passed)"
        )
    return tuple(failures)


def _comparison_failures(gates: Gates, comparison: ComparisonResult) -> list[str]:
    where = f"{POINT_NAMES[comparison.point]}, {comparison.component}, {comparison.case}"
    failures = [f"{where}: {problem}" for problem in comparison.problems]
    for tensor in comparison.tensors:
        if not tensor.finite:
            failures.append(f"{where}: `{tensor.name}` holds NaN or Inf")
        elif tensor.cosine < gates.cosine:
            failures.append(
                f"{where}: `{tensor.name}` has cosine {tensor.cosine:.6f}, want {gates.cosine:g} "
                f"(max-abs {tensor.max_abs:.2e}; "
                f"cosine = {_below(tensor.cosine)} would have passed)"
            )
    return failures


def _case_failures(gates: Gates, case: CaseResult, score: str) -> list[str]:
    where = f"end to end, {case.case}"
    failures = []
    for i in case.user_masks:
        iou = case.mask_iou[i]
        if not iou >= gates.mask_iou:  # NaN fails too
            failures.append(
                f"{where}: mask {i} of `low_res_masks` has IoU {iou:.6f}, want {gates.mask_iou:g} "
                f"(mask_iou = {_below(iou)} would have passed){_quality(case, i)}"
            )
    if not case.score_error <= gates.score_error:
        failures.append(
            f"{where}: `{score}` is off by {case.score_error:.2e}, want at most "
            f"{gates.score_error:g} (score_error = {_above(case.score_error)} would have passed)"
        )
    # Two scores that are closer than twice the allowed error may change their order.
    if case.artifact_best != case.best and case.score_gap > 2 * gates.score_error:
        failures.append(
            f"{where}: mask {case.artifact_best} has the best `{score}`, in PyTorch mask "
            f"{case.best} by {case.score_gap:.2e} "
            f"(score_error = {_above(case.score_gap / 2)} would have passed)"
        )
    return failures


def _quality(case: CaseResult, mask: int) -> str:
    """Return PyTorch's score and stability of a mask: a poor mask changes easily."""
    if not case.stability:
        return ""
    return (
        f"; PyTorch gives this mask a score of {case.scores[mask]:.2f}, and its stability is "
        f"{case.stability[mask]:.2f}"
    )


def _below(value: float) -> str:
    """Round down to six digits: a lower limit that `value` meets."""
    return f"{math.floor(value * 1e6) / 1e6:g}" if math.isfinite(value) else "no value"


def _above(value: float) -> str:
    """Round up to six digits: an upper limit that `value` meets."""
    return f"{math.ceil(value * 1e6) / 1e6:g}" if math.isfinite(value) else "no value"
