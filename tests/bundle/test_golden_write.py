"""Golden vectors mark the masks that PyTorch is not confident of."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from effsam_export.bundle.golden_write import comparison_marks, document
from effsam_export.models import get
from effsam_export.parity.cases import CaseResult
from effsam_export.parity.check import ParityResult
from effsam_export.parity.comparison import Expected, ExpectedImage
from effsam_export.parity.results import ParityReport
from effsam_export.spec.prompts import Point, Prompt
from effsam_export.spec.targets import Gates, TargetProfile

if TYPE_CHECKING:
    from pathlib import Path

SAM = get("mobile-sam")
STABLE = (0.9, 0.9, 0.9, 0.9)


def scores(*values: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.asarray(values, np.float32)


@pytest.mark.parametrize(
    ("values", "stability", "precision", "wanted"),
    [
        ((0.9, 0.8, 0.7, 0.95), STABLE, "fp16", ([0, 3], False)),
        ((0.9, 0.8, 0.7, 0.95), (0.6, 0.9, 0.9, 0.9), "fp16", ([3], False)),
        ((0.6, 0.8, 0.7, 0.95), STABLE, "fp16", ([3], False)),
        # The best itself is not compared, so another may be the best.
        ((0.9, 0.8, 0.7, 0.95), (0.9, 0.9, 0.9, 0.6), "fp16", ([0], True)),
        ((0.9, 0.8, 0.948, 0.95), STABLE, "fp16", ([0, 3], False)),
        ((0.9, 0.8, 0.948, 0.95), STABLE, "int8", ([0, 3], True)),
        ((0.9, 0.8, 0.9495, 0.95), STABLE, "fp32", ([0, 3], True)),
    ],
)
def test_what_is_compared(
    values: tuple[float, ...],
    stability: tuple[float, ...],
    precision: str,
    wanted: tuple[list[int], bool],
) -> None:
    compared, may_change = wanted
    assert comparison_marks(SAM, scores(*values), stability, precision) == {
        "compared": compared,
        "best_may_change": may_change,
    }


def test_an_instance_is_compared_by_its_confidence() -> None:
    fast = get("fast-sam-s")
    for score, compared in ((0.71, [0]), (0.69, [])):
        assert comparison_marks(fast, scores(score), (), "fp16")["compared"] == compared


def parity(*stability: tuple[float, ...]) -> ParityResult:
    """A check with an image for each set of stabilities; all scores are 0.9."""
    same = scores(0.9, 0.9, 0.9, 0.91)
    images = [
        ExpectedImage(
            name=f"image{number}",
            image=np.full((8, 8, 3), number, np.uint8),
            cases=(
                Expected(
                    name="point",
                    prompt=Prompt(points=(Point(x=1, y=2),)),
                    masks=np.ones((4, 8, 8), np.bool_),
                    scores=same,
                    stability=values,
                ),
            ),
        )
        for number, values in enumerate(stability)
    ]
    cases = tuple(
        CaseResult(
            case=f"image{number}/point",
            mask_iou=(1.0,) * 4,
            boundary_iou=(1.0,) * 4,
            score_error=0.0,
            best=3,
            artifact_best=3,
            score_gap=0.01,
            best_iou=1.0,
            user_masks=(0, 3),
            scores=tuple(same.tolist()),
            stability=values,
        )
        for number, values in enumerate(stability)
    )
    report = ParityReport(
        model="m",
        target="t",
        precision="fp16",
        gates=Gates(mask_iou=0.99, score_error=0.01, cosine=0.999),
        comparisons=(),
        cases=cases,
        failures=(),
    )
    return ParityResult(report=report, pictures=(), expected=tuple(images))


def written(path: Path, target: TargetProfile, found: ParityResult) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(document(path, SAM, target, found)))
    return content


def test_the_image_has_a_confident_mask(tmp_path: Path, onnx_target: TargetProfile) -> None:
    """The first image has none, so nothing of it could be compared."""
    half, fp16 = (0.1, 0.2, 0.2, 0.9), replace(onnx_target, precision="fp16")
    golden = written(tmp_path / "a", fp16, parity((0.1,) * 4, half, STABLE, STABLE))
    (case,) = golden["cases"]
    assert case["answers"] == [0, 3]
    assert (case["compared"], case["best_may_change"]) == ([3], False)
    assert case["stability"] == list(half)


def test_nothing_is_marked_where_all_masks_decide(
    tmp_path: Path, onnx_target: TargetProfile
) -> None:
    golden = written(tmp_path / "a", onnx_target, parity((0.1,) * 4, STABLE, STABLE))
    (case,) = golden["cases"]
    assert not {"compared", "best_may_change", "stability"} & set(case)
