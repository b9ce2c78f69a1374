"""Check measurements against gates. Each failure names the value that would have passed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from effsam_export.parity.cases import all_masks_decide, decisions
from effsam_export.parity.confidence import SCORE_GAPS
from effsam_export.parity.results import POINT_NAMES
from effsam_export.spec.prompts import EMBEDDINGS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from effsam_export.parity.cases import CaseResult, Decision
    from effsam_export.parity.results import ComparisonResult
    from effsam_export.spec.targets import Gates, Precision


def check_gates(
    gates: Gates,
    comparisons: Sequence[ComparisonResult],
    cases: Sequence[CaseResult],
    score: str = "iou_predictions",
    precision: Precision = "fp32",
) -> tuple[str, ...]:
    """Return a sentence for each failure; nothing if everything passed.

    Only confident masks have to meet the gates of masks and scores. With too few of them, all masks
    and the SQNR of the embedding have to. NaN fails in any mask.

    Args:
        gates: The limits.
        comparisons: Components at the comparison points.
        cases: End-to-end results.
        score: Name of the output that ranks masks, for the messages.
        precision: Precision of the export.
    """
    failures = []
    if not comparisons:
        failures.append("nothing was measured")
    too_few = all_masks_decide(cases)
    for comparison in comparisons:
        failures += _comparison_failures(gates, comparison, of_embedding=too_few)
    decided = decisions(cases, gates, precision)
    for decision in decided:
        failures += _case_failures(gates, decision, score)
        if decision.ranking_counts:
            case = decision.case
            passing = f"score_error = {_above(case.score_gap / 2)} would have passed"
            if not too_few:
                passing = f"a gap below {SCORE_GAPS[precision]:g} would have been a tie"
            failures.append(
                f"end to end, {case.case}: mask {case.artifact_best} has the best `{score}`, in "
                f"PyTorch mask {case.best} by {case.score_gap:.2e} ({passing})"
            )
    ious = [d.min_iou for d in decided if d.min_iou is not None]
    mean = sum(ious) / len(ious) if ious else 1.0
    # BF16's mean is that of confident masks. Masks of random weights are near the threshold.
    if not (mean >= gates.mean_iou or (too_few and precision == "bf16")):
        failures.append(
            f"end to end: mean IoU of {len(ious)} prompts is {mean:.6f}, want {gates.mean_iou:g} "
            f"(mean_iou = {_below(mean)} would have passed)"
        )
    return tuple(failures)


def sqnr_of(cosine: float) -> float:
    """Return the SQNR in dB at which noise that is independent of a tensor gives this cosine."""
    if cosine <= 0:
        return -math.inf
    # A computed cosine of 1 has an error below the next smaller number.
    return -10 * math.log10(1 / min(cosine, math.nextafter(1, 0)) ** 2 - 1)


def _comparison_failures(
    gates: Gates, comparison: ComparisonResult, *, of_embedding: bool
) -> list[str]:
    """Return the failures of one component; `of_embedding`: check the embedding's SQNR too."""
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
        elif of_embedding and tensor.name == EMBEDDINGS and tensor.sqnr_db < sqnr_of(gates.cosine):
            passing = 1 / math.sqrt(1 + 10 ** (-tensor.sqnr_db / 10))
            failures.append(
                f"{where}: `{tensor.name}` has an SQNR of {tensor.sqnr_db:.2f} dB, want "
                f"{sqnr_of(gates.cosine):.2f} dB, which a cosine of {gates.cosine:g} allows "
                f"(cosine = {_below(passing)} would have passed)"
            )
    return failures


def _case_failures(gates: Gates, decision: Decision, score: str) -> list[str]:
    case = decision.case
    where = f"end to end, {case.case}"
    failures = []
    for i in case.user_masks:
        iou = case.mask_iou[i]
        if (i in decision.masks and not iou >= gates.mask_iou) or math.isnan(iou):
            failures.append(
                f"{where}: mask {i} of `low_res_masks` has IoU {iou:.6f}, want {gates.mask_iou:g} "
                f"(mask_iou = {_below(iou)} would have passed){_quality(case, i)}"
            )
    if not case.finite:
        failures.append(f"{where}: the artefact's outputs hold NaN or Inf")
    finite = math.isfinite(case.score_error)
    error = decision.score_error if finite else case.score_error
    if not (finite and error <= gates.score_error):
        failures.append(
            f"{where}: `{score}` is off by {error:.2e}, want at most "
            f"{gates.score_error:g} (score_error = {_above(error)} would have passed)"
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
