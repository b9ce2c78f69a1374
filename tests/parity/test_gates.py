"""Gates: what fails, and the passing value in each message."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from effsam_export.parity.cases import CaseResult
from effsam_export.parity.gates import check_gates
from effsam_export.parity.results import ComparisonResult, ParityReport, TensorDiff
from effsam_export.spec.targets import Gates

GATES = Gates(mask_iou=0.99, score_error=0.01, cosine=0.999)
GOOD = TensorDiff(name="low_res_masks", max_abs=1e-5, rms=1e-6, cosine=1.0, sqnr_db=90, finite=True)
COMPARISON = ComparisonResult(
    point="artifact", component="decoder", case="cat/nose", tensors=(GOOD,)
)
CASE = CaseResult(
    case="cat/nose",
    mask_iou=(0.999, 0.5, 0.998, 0.999),
    boundary_iou=(0.99, 0.4, 0.99, 0.99),
    score_error=0.001,
    best=2,
    artifact_best=2,
    score_gap=0.05,
    best_iou=0.998,
    user_masks=(0, 2),
)


def test_everything_good_passes() -> None:
    assert check_gates(GATES, [COMPARISON], [CASE]) == ()


def test_nothing_measured_fails() -> None:
    assert check_gates(GATES, [], []) == ("nothing was measured",)


def test_an_empty_report_has_not_passed() -> None:
    report = ParityReport(
        model="m", target="t", precision="fp32", gates=GATES, comparisons=(), cases=(), failures=()
    )
    assert not report.passed
    assert replace(report, comparisons=(COMPARISON,)).passed
    assert not replace(report, comparisons=(COMPARISON,), failures=("one",)).passed


def test_a_low_cosine_names_point_tensor_and_passing_value() -> None:
    tensor = replace(GOOD, cosine=0.9981239)
    (failure,) = check_gates(GATES, [replace(COMPARISON, tensors=(tensor,))], [])
    assert failure == (
        "ONNX -> artefact, decoder, cat/nose: `low_res_masks` has cosine 0.998124, want 0.999 "
        "(max-abs 1.00e-05; cosine = 0.998123 would have passed)"
    )


def test_nan_fails_even_where_the_gates_are_open() -> None:
    nan = TensorDiff(
        name="x", max_abs=math.nan, rms=math.nan, cosine=math.nan, sqnr_db=math.nan, finite=False
    )
    open_gates = Gates(mask_iou=0.0, score_error=math.inf, cosine=-1.0)
    (failure,) = check_gates(open_gates, [replace(COMPARISON, tensors=(nan,))], [])
    assert failure == "ONNX -> artefact, decoder, cat/nose: `x` holds NaN or Inf"


def test_a_missing_tensor_fails() -> None:
    comparison = replace(COMPARISON, tensors=(), problems=("output `iou_predictions` is missing",))
    assert check_gates(GATES, [comparison], []) == (
        "ONNX -> artefact, decoder, cat/nose: output `iou_predictions` is missing",
    )


@pytest.mark.parametrize("iou", [0.9812345, 0.0, math.nan])
def test_a_low_mask_iou(iou: float) -> None:
    (failure,) = check_gates(
        GATES, [COMPARISON], [replace(CASE, mask_iou=(0.999, 0.5, iou, 0.999))]
    )
    assert failure.startswith("end to end, cat/nose: mask 2 of `low_res_masks` has IoU")
    assert "want 0.99" in failure


def test_a_low_mask_iou_comes_with_score_and_stability() -> None:
    known = replace(
        CASE,
        mask_iou=(0.8, 0.5, 0.9, 0.999),
        scores=(0.502, 0.6, 0.98, 0.7),
        stability=(0.314, 0.5, 0.95, 0.6),
    )
    single, best = check_gates(GATES, [COMPARISON], [known])
    assert single.endswith("; PyTorch gives this mask a score of 0.50, and its stability is 0.31")
    assert best.endswith("; PyTorch gives this mask a score of 0.98, and its stability is 0.95")
    unknown = check_gates(GATES, [COMPARISON], [replace(known, scores=(), stability=())])
    assert len(unknown) == 2
    assert not any("PyTorch" in failure for failure in unknown)


def test_the_value_in_the_message_would_have_passed() -> None:
    case = replace(CASE, mask_iou=(0.97654321, 1.0, 1.0, 1.0), score_error=0.0123456)
    failures = check_gates(GATES, [COMPARISON], [case])
    values = dict(re.findall(r"(mask_iou|score_error) = ([0-9.e-]+) would", " ".join(failures)))
    assert set(values) == {"mask_iou", "score_error"}
    relaxed = replace(
        GATES, mask_iou=float(values["mask_iou"]), score_error=float(values["score_error"])
    )
    assert check_gates(relaxed, [COMPARISON], [case]) == ()
    stricter = replace(relaxed, mask_iou=relaxed.mask_iou + 1e-6)
    assert check_gates(stricter, [COMPARISON], [case])


def test_masks_that_no_user_gets_may_differ() -> None:
    assert CASE.mask_iou[1] < GATES.mask_iou
    assert CASE.min_iou == 0.998
    assert CASE.worst == 2
    assert check_gates(GATES, [COMPARISON], [CASE]) == ()


def test_another_best_mask_fails_if_the_scores_are_apart() -> None:
    (failure,) = check_gates(GATES, [COMPARISON], [replace(CASE, artifact_best=3)])
    assert "mask 3 has the best `iou_predictions`, in PyTorch mask 2 by 5.00e-02" in failure


def test_a_tie_within_the_allowed_error_may_go_either_way() -> None:
    assert check_gates(GATES, [COMPARISON], [replace(CASE, artifact_best=3, score_gap=0.015)]) == ()


def test_all_failures_are_reported_together() -> None:
    bad = replace(CASE, mask_iou=(0.1, 0.1, 0.1, 0.1), score_error=1.0)
    tensor = replace(GOOD, cosine=0.0)
    assert len(check_gates(GATES, [replace(COMPARISON, tensors=(tensor,))] * 3, [bad] * 2)) == 9
