"""The parity check: each comparison point is broken once, and only that one fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from effsam_export.backends.onnx.backend import open_onnx, open_session
from effsam_export.bundle import read
from effsam_export.errors import PromptError
from effsam_export.parity.check import check
from effsam_export.parity.comparison import Sides, compare
from effsam_export.parity.evaluation_set import load_evaluation_set
from effsam_export.parity.metrics import mask_iou
from effsam_export.weights import checkpoint
from tests.tiny import TINY_SAM

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from effsam_export.backends import Session
    from effsam_export.parity.check import ParityResult
    from effsam_export.spec.stages import Checkpoint
    from effsam_export.spec.targets import TargetProfile
    from effsam_export.spec.tensors import Feeds

pytestmark = pytest.mark.backend


class Changed:
    """A session whose outputs are changed on the way out."""

    def __init__(self, session: Session, change: Callable[[Feeds], Feeds]) -> None:
        self._session = session
        self._change = change

    def run(self, feeds: Feeds) -> Feeds:
        return self._change(dict(self._session.run(feeds)))


@pytest.fixture(scope="module")
def sides(exported_tiny: Path, tiny_checkpoint: Checkpoint) -> Sides:
    bundle = read.read(exported_tiny)
    return Sides(
        module=checkpoint.load(TINY_SAM, tiny_checkpoint),
        sources={c: open_onnx(bundle.source(c)) for c in bundle.components},
        artifacts={c: open_session(bundle.artifact(c)) for c in bundle.components},
    )


def checked(sides: Sides, target: TargetProfile, parity_file: Path) -> ParityResult:
    return check(
        TINY_SAM,
        sides,
        load_evaluation_set(TINY_SAM, parity_file),
        target=target.name,
        precision=target.precision,
        gates=target.gates,
    )


@pytest.fixture
def run(sides: Sides, onnx_target: TargetProfile, parity_file: Path) -> Callable[..., ParityResult]:
    """Check with sessions replaced: `run(sources={...}, artifacts={...})`."""

    def replaced(
        sources: dict[str, Session] | None = None, artifacts: dict[str, Session] | None = None
    ) -> ParityResult:
        changed = Sides(
            module=sides.module,
            sources={**sides.sources, **(sources or {})},
            artifacts={**sides.artifacts, **(artifacts or {})},
        )
        return checked(changed, onnx_target, parity_file)

    return replaced


def test_the_same_graphs_pass(run: Callable[..., ParityResult]) -> None:
    report = run().report
    assert report.failures == ()
    assert report.passed
    assert [c.case for c in report.cases] == ["photo/point", "photo/both", "photo/again"]
    assert len(report.comparisons) == 2 * (1 + 3)
    assert min(c.min_iou for c in report.cases) >= 0.999


def test_a_deep_image_is_read_as_for_a_run(
    sides: Sides, onnx_target: TargetProfile, photo: Path, tmp_path: Path
) -> None:
    with Image.open(photo) as image:
        grey = np.asarray(image.convert("L")).astype(np.uint16)
    Image.fromarray(grey * 16).save(tmp_path / "deep.png")
    text = '[[images]]\nfile = "deep.png"\nprompts = [{ name = "p", points = [[60, 40, 1]] }]\n'
    file = tmp_path / "parity.toml"
    for value_range, wanted, taken in (("auto", grey, 4095), ("full", grey // 16, 65535)):
        file.write_text(f'{text}range = "{value_range}"\n')
        found = checked(sides, onnx_target, file)
        np.testing.assert_array_equal(found.expected[0].image[..., 0], wanted)
        (note,) = found.report.notes
        assert note.startswith("image `deep.png` has 16-bit values from ")
        assert f"read as 0 to {taken}" in note


def test_a_case_has_pytorchs_scores_and_stability(run: Callable[..., ParityResult]) -> None:
    """Its own, whatever the artefact makes of them."""
    findings = run()
    (image,) = findings.expected
    for case, expected in zip(findings.report.cases, image.cases, strict=True):
        assert case.scores == tuple(expected.scores.tolist())
        assert case.stability == expected.stability
        # The mask has pixels between those two areas, so that neither is trivial.
        assert any(0 < share < 1 for share in case.stability)


def test_a_wrong_trace_fails_at_the_first_comparison_point_only(
    run: Callable[..., ParityResult], sides: Sides
) -> None:
    def negate(outputs: Feeds) -> Feeds:
        return {**outputs, "image_embeddings": -outputs["image_embeddings"]}

    report = run(sources={"encoder": Changed(sides.sources["encoder"], negate)}).report
    assert not report.passed
    assert any(
        f.startswith("PyTorch -> ONNX, encoder, photo: `image_embeddings`") for f in report.failures
    )
    assert not any(f.startswith("end to end") for f in report.failures)


def test_a_wrong_artefact_fails_at_the_second_comparison_point_and_end_to_end(
    run: Callable[..., ParityResult], sides: Sides
) -> None:
    def flip(outputs: Feeds) -> Feeds:
        return {**outputs, "low_res_masks": outputs["low_res_masks"][..., ::-1]}

    report = run(artifacts={"decoder": Changed(sides.artifacts["decoder"], flip)}).report
    assert any(f.startswith("ONNX -> artefact, decoder") for f in report.failures)
    assert any(f.startswith("end to end") and "IoU" in f for f in report.failures)
    assert not any(f.startswith("PyTorch -> ONNX") for f in report.failures)


def test_a_picture_shows_the_mask_that_differs(
    run: Callable[..., ParityResult], sides: Sides
) -> None:
    def flip_single(outputs: Feeds) -> Feeds:
        masks = outputs["low_res_masks"].copy()
        masks[:, 0] = masks[:, 0, :, ::-1]
        return {**outputs, "low_res_masks": masks}

    found = run(artifacts={"decoder": Changed(sides.artifacts["decoder"], flip_single)})
    for case, picture in zip(found.report.cases, found.pictures, strict=True):
        assert case.worst == picture.mask == 0 != case.best
        assert mask_iou(picture.reference, picture.actual) == case.min_iou < 0.99


def test_swapped_scores_change_the_ranking_and_fail(
    run: Callable[..., ParityResult], sides: Sides
) -> None:
    def reverse(outputs: Feeds) -> Feeds:
        return {**outputs, "iou_predictions": outputs["iou_predictions"][:, ::-1]}

    report = run(artifacts={"decoder": Changed(sides.artifacts["decoder"], reverse)}).report
    assert any("has the best `iou_predictions`" in f for f in report.failures)
    for case in report.cases:
        if case.artifact_best == case.best:
            assert case.best_iou == case.mask_iou[case.best]
        else:
            assert case.best_iou < 0.99


def test_nan_in_one_place_fails(run: Callable[..., ParityResult], sides: Sides) -> None:
    def poison(outputs: Feeds) -> Feeds:
        masks = outputs["low_res_masks"].copy()
        masks[0, 3, 0, 0] = np.nan
        return {**outputs, "low_res_masks": masks}

    report = run(artifacts={"decoder": Changed(sides.artifacts["decoder"], poison)}).report
    assert any("`low_res_masks` holds NaN or Inf" in f for f in report.failures)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda o: {"low_res_masks": o["low_res_masks"]}, "output `iou_predictions` is missing"),
        (lambda o: {**o, "extra": np.zeros(1)}, "output `extra` is not in the contract"),
        (
            lambda o: {**o, "iou_predictions": o["iou_predictions"][:, :3]},
            "`iou_predictions` has shape [1, 3], want [1, 4]",
        ),
    ],
    ids=["missing", "extra", "misshapen"],
)
def test_tensors_are_matched_by_exact_name_and_shape(
    change: Callable[[Feeds], Feeds], problem: str
) -> None:
    spec = TINY_SAM.component("decoder")
    good = {
        "low_res_masks": np.ones((1, 4, 256, 256), np.float32),
        "iou_predictions": np.ones((1, 4), np.float32),
    }
    assert compare("artifact", spec, "case", good, good).problems == ()
    assert compare("artifact", spec, "case", good, change(good)).problems == (problem,)


def test_golden_vectors_hold_pytorchs_outputs(run: Callable[..., ParityResult]) -> None:
    (expected,) = run().expected
    assert [c.name for c in expected.cases] == ["point", "both", "again"]
    assert expected.image.shape == (80, 120, 3)
    for case in expected.cases:
        assert case.masks.shape == (4, 80, 120)
        assert case.masks.dtype == bool
        assert case.scores.shape == (4,)
        assert len(case.stability) == 4
        assert all(0 <= share <= 1 for share in case.stability)
    assert expected.cases[2].prompt.mask_input is not None
    assert expected.cases[2].prompt.mask_input.shape == (256, 256)


def test_a_prompt_outside_the_image_is_refused(
    sides: Sides, onnx_target: TargetProfile, photo: Path, tmp_path: Path
) -> None:
    file = tmp_path / "parity.toml"
    file.write_text(
        f'[[images]]\nfile = "{photo}"\nprompts = [{{ name = "off", points = [[900, 1, 1]] }}]\n'
    )
    with pytest.raises(PromptError, match=r"point \(900, 1\) is outside the image"):
        checked(sides, onnx_target, file)


def test_one_component_is_compared_by_tensors_only(
    sides: Sides, onnx_target: TargetProfile, parity_file: Path
) -> None:
    only = Sides(
        module=sides.module,
        sources={"decoder": sides.sources["decoder"]},
        artifacts={"decoder": sides.artifacts["decoder"]},
    )
    report = checked(only, onnx_target, parity_file).report
    assert report.passed
    assert report.cases == ()
    assert {s.component for s in report.comparisons} == {"decoder"}
