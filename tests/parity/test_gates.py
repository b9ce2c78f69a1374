"""The judgement: what fails, and the value each message says would have passed."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from effsam_export.parity.gates import judge
from effsam_export.parity.results import CaseResult, ParityReport, SeamResult, TensorDiff
from effsam_export.spec.targets import Gates

GATES = Gates(mask_iou=0.99, score_error=0.01, cosine=0.999)
GOOD = TensorDiff(name="low_res_masks", max_abs=1e-5, rms=1e-6, cosine=1.0, sqnr_db=90, finite=True)
SEAM = SeamResult(seam="artifact", component="decoder", case="cat/nose", tensors=(GOOD,))
CASE = CaseResult(
    case="cat/nose",
    mask_iou=(0.999, 0.5, 0.998, 0.999),
    boundary_iou=(0.99, 0.4, 0.99, 0.99),
    score_error=0.001,
    winner=2,
    found_winner=2,
    winner_gap=0.05,
    chosen_iou=0.998,
    answers=(0, 2),
)


def test_everything_good_passes() -> None:
    assert judge(GATES, [SEAM], [CASE]) == ()


def test_nothing_measured_fails() -> None:
    assert judge(GATES, [], []) == ("nothing was measured",)


def test_an_empty_report_has_not_passed() -> None:
    report = ParityReport(
        model="m", target="t", precision="fp32", gates=GATES, seams=(), cases=(), failures=()
    )
    assert not report.passed
    assert replace(report, seams=(SEAM,)).passed
    assert not replace(report, seams=(SEAM,), failures=("one",)).passed


def test_a_low_cosine_names_seam_tensor_and_passing_value() -> None:
    tensor = replace(GOOD, cosine=0.9981239)
    (failure,) = judge(GATES, [replace(SEAM, tensors=(tensor,))], [])
    assert failure == (
        "seam artifact, decoder, cat/nose: `low_res_masks` has cosine 0.998124, want 0.999 "
        "(max-abs 1.00e-05; cosine = 0.998123 would have passed)"
    )


def test_nan_fails_even_where_the_gates_are_open() -> None:
    nan = TensorDiff(
        name="x", max_abs=math.nan, rms=math.nan, cosine=math.nan, sqnr_db=math.nan, finite=False
    )
    open_gates = Gates(mask_iou=0.0, score_error=math.inf, cosine=-1.0)
    (failure,) = judge(open_gates, [replace(SEAM, tensors=(nan,))], [])
    assert failure == "seam artifact, decoder, cat/nose: `x` holds NaN or Inf"


def test_a_missing_tensor_fails() -> None:
    seam = replace(SEAM, tensors=(), problems=("output `iou_predictions` is missing",))
    assert judge(GATES, [seam], []) == (
        "seam artifact, decoder, cat/nose: output `iou_predictions` is missing",
    )


@pytest.mark.parametrize("iou", [0.9812345, 0.0, math.nan])
def test_a_low_mask_iou(iou: float) -> None:
    (failure,) = judge(GATES, [SEAM], [replace(CASE, mask_iou=(0.999, 0.5, iou, 0.999))])
    assert failure.startswith("end to end, cat/nose: mask 2 of `low_res_masks` has IoU")
    assert "want 0.99" in failure


def test_a_mask_that_misses_is_told_with_what_pytorch_thinks_of_it() -> None:
    known = replace(
        CASE,
        mask_iou=(0.8, 0.5, 0.9, 0.999),
        scores=(0.502, 0.6, 0.98, 0.7),
        stability=(0.314, 0.5, 0.95, 0.6),
    )
    single, winner = judge(GATES, [SEAM], [known])
    assert single.endswith("; PyTorch gives this mask a score of 0.50, and its stability is 0.31")
    assert winner.endswith("; PyTorch gives this mask a score of 0.98, and its stability is 0.95")
    unknown = judge(GATES, [SEAM], [replace(known, scores=(), stability=())])
    assert len(unknown) == 2
    assert not any("PyTorch" in failure for failure in unknown)


def test_the_value_in_the_message_would_have_passed() -> None:
    case = replace(CASE, mask_iou=(0.97654321, 1.0, 1.0, 1.0), score_error=0.0123456)
    failures = judge(GATES, [SEAM], [case])
    values = dict(re.findall(r"(mask_iou|score_error) = ([0-9.e-]+) would", " ".join(failures)))
    assert set(values) == {"mask_iou", "score_error"}
    relaxed = replace(
        GATES, mask_iou=float(values["mask_iou"]), score_error=float(values["score_error"])
    )
    assert judge(relaxed, [SEAM], [case]) == ()
    stricter = replace(relaxed, mask_iou=relaxed.mask_iou + 1e-6)
    assert judge(stricter, [SEAM], [case])


def test_masks_nobody_is_given_may_differ() -> None:
    assert CASE.mask_iou[1] < GATES.mask_iou
    assert CASE.answer_iou == 0.998
    assert CASE.worst == 2
    assert judge(GATES, [SEAM], [CASE]) == ()


def test_another_winner_fails_where_the_scores_are_apart() -> None:
    (failure,) = judge(GATES, [SEAM], [replace(CASE, found_winner=3)])
    assert "mask 3 wins by `iou_predictions`, in PyTorch mask 2 by 5.00e-02" in failure


def test_a_tie_within_the_allowed_error_may_go_either_way() -> None:
    assert judge(GATES, [SEAM], [replace(CASE, found_winner=3, winner_gap=0.015)]) == ()


def test_all_failures_are_reported_together() -> None:
    bad = replace(CASE, mask_iou=(0.1, 0.1, 0.1, 0.1), score_error=1.0)
    tensor = replace(GOOD, cosine=0.0)
    assert len(judge(GATES, [replace(SEAM, tensors=(tensor,))] * 3, [bad] * 2)) == 9
