"""Confident masks decide a parity check; the others are shown beside them."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from effsam_export.imaging import letterbox
from effsam_export.imaging.instances import Instances
from effsam_export.parity import confidence
from effsam_export.parity.cases import CaseResult, decisions
from effsam_export.parity.confidence import confident_masks
from effsam_export.parity.gates import check_gates, sqnr_of
from effsam_export.parity.instances import compare_all, compare_confident
from effsam_export.parity.results import ComparisonResult, ParityReport, TensorDiff
from effsam_export.spec.targets import Gates, Precision

GATES = Gates(mask_iou=0.99, score_error=0.01, cosine=0.999)
EMBEDDING = TensorDiff(
    name="image_embeddings", max_abs=0.1, rms=0.01, cosine=0.9995, sqnr_db=30.0, finite=True
)
COMPARISON = ComparisonResult(
    point="artifact", component="encoder", case="cat", tensors=(EMBEDDING,)
)
GOOD = CaseResult(
    case="cat/ear",
    mask_iou=(0.999, 0.5, 0.998, 0.999),
    boundary_iou=(0.99,) * 4,
    score_error=0.5,
    best=2,
    artifact_best=2,
    score_gap=0.05,
    best_iou=0.998,
    user_masks=(0, 2),
    scores=(0.9, 0.2, 0.95, 0.8),
    stability=(0.9, 0.1, 0.95, 0.8),
    score_errors=(0.001, 0.5, 0.002, 0.3),
)
OTHERS = [GOOD] * 2
"""Four confident masks; a fifth one is needed."""
UNSTABLE = replace(GOOD, mask_iou=(0.2, 0.5, 0.998, 0.999), stability=(0.15, 0.1, 0.95, 0.8))
"""PyTorch is confident of mask 2, and not of mask 0, which differs."""


def failures(
    *cases: CaseResult, gates: Gates = GATES, precision: Precision = "fp32"
) -> tuple[str, ...]:
    return check_gates(gates, [COMPARISON], cases, precision=precision)


def report(*cases: CaseResult) -> ParityReport:
    return ParityReport(
        model="m",
        target="t",
        precision="int8",
        gates=GATES,
        comparisons=(COMPARISON,),
        cases=cases,
        failures=(),
    )


@pytest.mark.parametrize(
    ("score", "stability", "wanted"),
    [
        (0.7, 0.7, (0,)),
        (math.nextafter(0.7, 0), 0.7, ()),
        (0.7, math.nextafter(0.7, 0), ()),
        (1.03, 1.0, (0,)),
        (math.nan, 1.0, ()),
        (1.0, math.nan, ()),
    ],
)
def test_the_borders_of_confidence(score: float, stability: float, wanted: tuple[int, ...]) -> None:
    assert confident_masks([0], [score], [stability]) == wanted


def test_an_instance_has_a_confidence_only() -> None:
    assert confident_masks([0], [0.7], []) == (0,)
    assert confident_masks([0], [0.69], []) == ()
    assert confident_masks([0], [], []) == ()


def test_every_precision_has_a_score_gap() -> None:
    assert set(get_args(Precision)) <= set(confidence.SCORE_GAPS)
    assert confidence.SCORE_GAPS["bf16"] == confidence.SCORE_GAPS["int8"] == 0.005


def test_a_mask_that_pytorch_is_unsure_of_does_not_decide() -> None:
    assert failures(*OTHERS, UNSTABLE) == ()
    # One confident mask fewer: all masks decide again.
    unsure = replace(UNSTABLE, scores=(0.9, 0.2, 0.6, 0.5))
    (failure,) = failures(*OTHERS, unsure, gates=replace(GATES, score_error=1.0))
    assert failure.startswith("end to end, cat/ear: mask 0 of `low_res_masks` has IoU 0.200000")
    assert failure.endswith("and its stability is 0.15")


def test_a_confident_mask_decides() -> None:
    low = replace(GOOD, mask_iou=(0.999, 0.5, 0.9876543, 0.999))
    (failure,) = failures(*OTHERS, UNSTABLE, low)
    assert "mask 2 of `low_res_masks` has IoU 0.987654, want 0.99" in failure
    (value,) = re.findall(r"mask_iou = ([0-9.]+) would have passed", failure)
    assert failures(*OTHERS, low, gates=replace(GATES, mask_iou=float(value))) == ()


def test_scores_of_confident_masks_decide() -> None:
    """Those of the masks that no user gets are off by half in every case."""
    assert failures(*OTHERS, GOOD) == ()
    off = replace(GOOD, score_errors=(0.001, 0.5, 0.0123456, 0.3))
    (failure,) = failures(*OTHERS, off)
    assert "is off by 1.23e-02, want at most 0.01 (score_error = 0.012346 would have" in failure
    unsure = replace(off, stability=(0.9, 0.1, 0.5, 0.8))
    assert failures(*OTHERS, unsure) == ()
    # With too few confident masks the score of every mask decides.
    assert len(failures(GOOD, unsure)) == 2


def test_the_mean_is_that_of_the_masks_that_decide() -> None:
    gates = replace(GATES, mask_iou=0.0, mean_iou=0.9)
    nothing = replace(UNSTABLE, stability=(0.1,) * 4)
    assert failures(*OTHERS, UNSTABLE, nothing, gates=gates) == ()
    low = replace(GOOD, mask_iou=(0.999, 0.5, 0.5, 0.999))
    (failure,) = failures(*OTHERS, nothing, low, gates=gates)
    assert failure.startswith("end to end: mean IoU of 3 prompts is 0.832")


def test_the_mean_of_bf16_is_for_confident_masks() -> None:
    gates = replace(GATES, mask_iou=0.5, mean_iou=0.9999, score_error=1.0)
    low = replace(GOOD, mask_iou=(0.99,) * 4)
    unsure = replace(low, stability=(0.1,) * 4)
    precisions: tuple[Precision, ...] = get_args(Precision)
    for precision in precisions:
        assert len(failures(*OTHERS, low, gates=gates, precision=precision)) == 1
        alone = failures(unsure, gates=gates, precision=precision)
        assert len(alone) == (0 if precision == "bf16" else 1)


@pytest.mark.parametrize(
    ("precision", "gap"), [("fp32", 0.001), ("fp16", 0.001), ("bf16", 0.005), ("int8", 0.005)]
)
def test_a_change_of_the_best_mask(precision: Precision, gap: float) -> None:
    changed = replace(GOOD, artifact_best=3, score_gap=gap)
    (failure,) = failures(*OTHERS, changed, precision=precision)
    assert f"a gap below {gap:g} would have been a tie" in failure
    tie = replace(changed, score_gap=math.nextafter(gap, 0))
    assert failures(*OTHERS, tie, precision=precision) == ()
    assert decisions([*OTHERS, tie], GATES, precision)[2].ranking == "tie"
    assert decisions([*OTHERS, changed], GATES, precision)[2].ranking == "changed"


def test_a_change_of_a_best_mask_that_pytorch_is_unsure_of() -> None:
    changed = replace(GOOD, artifact_best=3, stability=(0.9, 0.1, 0.5, 0.8))
    assert failures(*OTHERS, changed) == ()
    decision = decisions([*OTHERS, changed], GATES, "fp16")[2]
    assert (decision.ranking, decision.ranking_counts) == ("changed", False)
    # Where all masks decide it counts, beyond twice the allowed score error.
    (failure,) = failures(replace(changed, score_gap=0.03, score_error=0.0))
    assert failure.endswith("in PyTorch mask 2 by 3.00e-02 (score_error = 0.015 would have passed)")
    assert failures(replace(changed, score_gap=0.02, score_error=0.0)) == ()


@pytest.mark.parametrize(
    "broken",
    [
        replace(UNSTABLE, mask_iou=(math.nan, 0.5, 0.998, 0.999)),
        replace(UNSTABLE, score_error=math.nan, score_errors=(math.nan, 0.5, 0.002, 0.3)),
        replace(UNSTABLE, score_error=math.inf, score_errors=(math.inf, 0.5, 0.002, 0.3)),
        replace(UNSTABLE, finite=False),
    ],
    ids=["IoU", "score", "infinite score", "outputs"],
)
def test_nan_fails_in_any_mask(broken: CaseResult) -> None:
    (failure,) = failures(*OTHERS, broken, gates=Gates(mask_iou=0, score_error=1, cosine=-1))
    assert failure.startswith("end to end, cat/ear: ")


def test_without_confident_masks_the_embedding_needs_its_sqnr() -> None:
    noisy = replace(EMBEDDING, sqnr_db=20.0)
    comparison = replace(COMPARISON, tensors=(noisy,))
    (failure,) = check_gates(GATES, [comparison], [])
    assert "`image_embeddings` has an SQNR of 20.00 dB, want 26.98 dB" in failure
    (value,) = re.findall(r"\(cosine = ([0-9.]+) would have passed\)", failure)
    assert check_gates(replace(GATES, cosine=float(value)), [comparison], []) == ()
    assert check_gates(GATES, [comparison], [*OTHERS, GOOD]) == ()
    other = replace(comparison, tensors=(replace(noisy, name="low_res_masks"),))
    assert check_gates(GATES, [other], []) == ()


def test_the_sqnr_of_a_cosine() -> None:
    """Noise that is independent of the signal gives both."""
    random = np.random.default_rng(0)
    signal, noise = random.normal(size=200_000), random.normal(size=200_000)
    other = signal + 0.1 * noise
    cosine = float(signal @ other / np.linalg.norm(signal) / np.linalg.norm(other))
    assert sqnr_of(cosine) == pytest.approx(20, abs=0.05)
    assert 150 < sqnr_of(1.0) < 160
    assert (sqnr_of(0.0), sqnr_of(-1.0)) == (-math.inf, -math.inf)


def test_a_report_has_the_figures_of_the_masks_that_decide() -> None:
    found = report(*OTHERS, UNSTABLE)
    assert (found.min_iou, found.score_error) == (0.998, 0.002)
    assert found.mean_iou == pytest.approx(0.998)
    assert [d.beside for d in found.decisions] == [(), (), (0,)]
    assert found.decided_by == (
        "PyTorch is confident of 5 of 6 masks, and these decide. The others are shown beside them."
    )
    few = report(GOOD, UNSTABLE)
    assert (few.min_iou, few.score_error) == (0.2, 0.5)
    assert few.decided_by == (
        "PyTorch is confident of 3 of 4 masks, fewer than 5, so all masks and the embedding's "
        "SQNR decide."
    )
    assert report(*OTHERS, GOOD).decided_by == (
        "PyTorch is confident of all 6 masks, and they decide."
    )
    assert (report().decided_by, report().min_iou, report().score_error) == ("", None, None)


def test_nan_is_the_minimum_wherever_it_is() -> None:
    nan = replace(GOOD, mask_iou=(math.nan,) * 4)
    for cases in ([GOOD, GOOD, nan], [nan, GOOD, GOOD]):
        assert math.isnan(report(*cases).min_iou or 0)


# ------------------------------------------------------------------ instances


def instances(*rows: tuple[float, int]) -> Instances:
    """Instances of (score, left side): squares of 20 pixels in an image of 80x120."""
    boxes = [[x, 10, x + 20, 30] for _, x in rows]
    return Instances(
        letterbox=letterbox.fit((80, 120), 128, square=True),
        boxes=np.asarray(boxes, np.float32).reshape(-1, 4),
        scores=np.asarray([score for score, _ in rows], np.float32),
        coefficients=np.ones((len(rows), 1), np.float32),
        prototypes=np.ones((1, 32, 32), np.float32),
    )


def test_instances_below_the_confidence_do_not_count() -> None:
    known = instances((0.9, 0), (0.8, 30), (0.5, 60))
    found = instances((0.91, 0), (0.69, 30), (0.45, 90))
    case = compare_all("cat/everything", known, found)
    assert case.mask_iou[0] == pytest.approx(2 / 3)
    assert (case.scores, case.confident) == ((0.5,), ())
    confident = compare_confident("cat/confident", known, found)
    assert confident.mask_iou == (1.0,)
    assert confident.confident == (0,)
    assert confident.score_error == pytest.approx(0.11)


def test_a_missing_and_an_extra_confident_instance_count_as_zero() -> None:
    known = instances((0.9, 0), (0.8, 30), (0.6, 60))
    missing = compare_confident("cat/confident", known, instances((0.9, 0)))
    assert missing.mask_iou == (0.5,)
    extra = instances((0.95, 95), (0.9, 0), (0.8, 30), (0.75, 60))
    # The last one is PyTorch's too, which scores it lower.
    case = compare_confident("cat/confident", known, extra)
    assert case.mask_iou[0] == pytest.approx(2 / 3)


def test_an_image_without_instances() -> None:
    case = compare_all("cat/everything", instances(), instances((0.45, 0)))
    assert (case.mask_iou, case.scores, case.confident) == ((0.0,), (0.0,), ())
    assert compare_all("cat/everything", instances(), instances()).mask_iou == (1.0,)
