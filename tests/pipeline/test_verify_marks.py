"""`verify` leaves out golden masks that PyTorch is not confident of, and says how many."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from effsam_export.bundle.golden_write import comparison_marks
from effsam_export.parity import confidence
from effsam_export.pipeline import verify
from effsam_export.pipeline.verify_golden import GoldenResult, result_failures
from effsam_export.spec.targets import Gates
from tests.pipeline.test_verify import effsam, relist
from tests.tiny import TINY_SAM

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.backend


@pytest.fixture(autouse=True)
def any_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores of a tiny model mean nothing: the stability alone decides."""
    monkeypatch.setattr(confidence, "MIN_SCORE", -1e9)


def mark(bundle: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """Leave out the single mask of the first prompt and all of the second, and change more."""
    file = bundle / "golden" / "golden.json"
    golden = json.loads(file.read_text("utf-8"))
    first, second, _ = cases = golden["cases"]
    for case, stability in ((first, [0.2, 0.9, 0.9, 0.9]), (second, [0.2] * 4)):
        scores = np.asarray(case["scores"], np.float32)
        marks = comparison_marks(TINY_SAM, scores, stability, "fp32")
        case.update(stability=stability, **marks)
    change(cases)
    file.write_text(json.dumps(golden), "utf-8")
    relist(bundle)


def other_masks(cases: list[dict[str, Any]]) -> None:
    """Change what is not compared: a mask, and all masks and scores of a prompt by one amount."""
    cases[0]["masks"][0] = {"size": [80, 120], "counts": [9600]}
    cases[1]["masks"] = cases[1]["masks"][::-1]
    cases[1]["scores"] = [score + 0.25 for score in cases[1]["scores"]]


def test_they_are_counted(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mark(bundle, other_masks)
    found = verify.verify(bundle)
    assert found.failures == ()
    assert found.passed
    assert [g.not_compared for g in found.golden] == [1, 2, 0]
    assert (found.golden[1].mask_iou, found.golden[1].score_error) == (None, None)
    assert effsam(monkeypatch, "verify", bundle) == 0
    shown = capsys.readouterr()
    assert "3 masks not compared: PyTorch is not confident of them" in shown.err
    assert "both           not compared  not compared" in shown.out


@pytest.mark.parametrize(
    ("change", "failure"),
    [
        (
            lambda cases: cases[0].update(compared=[]),
            "golden point: `compared` is [], want [",
        ),
        (
            lambda cases: cases[1].update(best_may_change=False),
            "golden both: `best_may_change` is False, want True",
        ),
        (
            lambda cases: cases[0].update(stability=[]),
            "golden point: `stability` is empty, want 4 values",
        ),
        (
            lambda cases: cases[0]["masks"].__setitem__(
                cases[0]["answers"][1], {"size": [80, 120], "counts": [9600]}
            ),
            "golden point: mask IoU 0.000000, want 0.999",
        ),
    ],
    ids=["a mask too few", "the order", "no stability", "a compared mask"],
)
def test_what_the_marks_do_not_excuse(
    bundle: Path, change: Callable[[list[dict[str, Any]]], object], failure: str
) -> None:
    mark(bundle, change)
    found = verify.verify(bundle)
    assert any(f.startswith(failure) for f in found.failures), found.failures


def test_nan_fails_where_nothing_is_compared() -> None:
    gates = Gates(mask_iou=0.9, score_error=0.1, cosine=0.9)
    nan, nothing = float("nan"), GoldenResult(case="a", mask_iou=None, score_error=None)
    assert result_failures((nothing,), gates) == []
    broken = GoldenResult(case="a", mask_iou=nan, score_error=nan)
    assert len(result_failures((broken,), gates)) == 2
