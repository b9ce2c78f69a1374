"""A search for an INT8 recipe in an export of the small encoder, which has one layer."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from effsam_export.config import calibration, int8_recipe
from effsam_export.config import targets as profiles
from effsam_export.parity.cases import CaseResult
from effsam_export.parity.gates import check_gates
from effsam_export.parity.results import ComparisonResult, ParityReport, TensorDiff
from effsam_export.pipeline import int8_search
from effsam_export.pipeline import run as pipeline
from effsam_export.pipeline.int8_found import Record
from effsam_export.pipeline.int8_measure import AIMS, measured_of
from effsam_export.pipeline.request import ExportRequest, Int8Request, Int8Search
from effsam_export.spec.int8 import Int8Recipe
from effsam_export.spec.prompts import EMBEDDINGS
from effsam_export.spec.targets import Gates
from tests.small import SMALL_SAM
from tests.stages import sharing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from effsam_export.pipeline.int8_steps import Measured
    from effsam_export.spec.int8 import Optimize
    from effsam_export.spec.stages import Checkpoint
    from effsam_export.util.progress import StageEvent

pytestmark = pytest.mark.backend
LOOSE = Gates(mask_iou=0.0, score_error=1.0, cosine=0.9)


@dataclass(frozen=True, kw_only=True)
class Export:
    """What an export with a search wrote and reported."""

    search: dict[str, Any]
    recipe: Int8Recipe
    stages: list[str]
    notes: list[str]


@pytest.fixture
def export(
    tmp_path: Path,
    small: None,
    small_checkpoint: Checkpoint,
    parity_file: Path,
    stage_root: Path,
) -> Callable[..., Export]:
    """Export with a search; arguments are those that a test changes."""

    def run(
        *, optimize: Optimize = "size", budget_s: float = 600, gates: Gates = LOOSE, name: str = "x"
    ) -> Export:
        events: list[StageEvent] = []
        target = replace(profiles.load_target("onnx", "int8"), gates=gates)
        search = Int8Search(optimize=optimize, budget_s=budget_s, folder=tmp_path / "kept")
        request = ExportRequest(
            model=SMALL_SAM,
            target=target,
            checkpoint=small_checkpoint,
            output=tmp_path / name,
            components=("encoder",),
            parity_file=parity_file,
            int8=Int8Request(
                calibration=calibration.load(num_samples=2),
                plan=int8_recipe.load("default"),
                search=search,
            ),
        )
        pipeline.export(sharing(request, stage_root), events.append)
        manifest = json.loads((tmp_path / name / "manifest.json").read_text("utf-8"))
        return Export(
            search=manifest["int8"]["search"],
            recipe=int8_recipe.recipe_from(manifest["int8"]["components"]["encoder"]),
            stages=[e.stage for e in events if e.kind == "finished"],
            notes=[e.detail for e in events if e.kind == "note"],
        )

    return run


def test_a_recipe_is_found_kept_and_used_again(
    export: Callable[..., Export], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = export()
    assert found.search["optimize"] == "size"
    (layer,) = found.search["layers"]
    assert layer["module"] == "image_encoder"
    assert layer["weights"] == 3 * 16 * 16 * 256
    # The only layer computes the output.
    assert layer["gain"] == pytest.approx(1, abs=0.3)
    assert layer["macs"] == layer["weights"] * 16 * 16
    assert 30 < layer["sqnr_db"]["w8a8"] < layer["sqnr_db"]["weight_only"] < 50
    (step,) = [s for s in found.search["steps"] if s["chosen"]]
    # Where the target is ONNX Runtime, a simulation of one layer is what the target computes.
    assert step["measured"]["sqnr_db"] == pytest.approx(step["predicted_db"], abs=1.5)
    assert found.search["aim_met"]
    assert found.notes == []
    assert found.recipe.treatment(("", "image_encoder")) == layer["treatment"]
    assert "search encoder" in found.stages
    assert (tmp_path / "x" / "encoder.onnx").is_file()
    # The same export again: no measurement, and the same bytes of the recipe.
    monkeypatch.setattr(int8_search, "measured_inputs", None)
    again = export(name="y")
    assert (again.search, again.recipe) == (found.search, found.recipe)
    assert not [s for s in again.stages if s.startswith("step")]
    one, two = ((tmp_path / n / "encoder.onnx").read_bytes() for n in ("x", "y"))
    assert one == two


@pytest.mark.slow
def test_accuracy_has_no_int8_activations(export: Callable[..., Export]) -> None:
    found = export(optimize="accuracy")
    assert found.recipe == Int8Recipe(scheme="weight_only")
    assert len(found.search["steps"]) == found.search["recipes"] == 1


@pytest.mark.slow
def test_a_search_without_time_exports_what_it_predicts(export: Callable[..., Export]) -> None:
    found = export(budget_s=0)
    assert found.search["steps"] == []
    assert not found.search["complete"]
    assert found.notes == [
        "the time is up: no INT8 recipe was confirmed, and the predicted one is exported"
    ]


def test_a_search_that_cannot_be_kept_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    notes: list[str] = []
    record = Record(path=tmp_path / "file" / "key.json", on_note=notes.append)
    record.add_gains({"layer": 1.0})
    assert record.gains() == {}
    (note,) = notes
    assert note.startswith(f"the search is not kept in `{tmp_path / 'file'}`: ")
    damaged = Record(path=tmp_path / "key.json", on_note=notes.append)
    assert damaged.path is not None
    damaged.path.write_text("{")
    assert damaged.result() is None
    damaged.add_gains({"layer": 2.0})
    assert damaged.gains() == {"layer": 2.0}
    Record(path=None, on_note=notes.append).add_gains({})
    assert len(notes) == 1


@pytest.mark.slow
def test_a_search_that_was_cut_short_goes_on(
    export: Callable[..., Export], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(int8_search, "evidence_of", stopped)
    with pytest.raises(KeyboardInterrupt):
        export()
    monkeypatch.undo()
    (kept,) = (tmp_path / "kept").iterdir()
    before = json.loads(kept.read_text("utf-8"))["steps"]
    assert len(before) >= 1
    # Nothing is confirmed a second time.
    monkeypatch.setattr(int8_search, "confirmed", None)
    monkeypatch.setattr("effsam_export.models.MODELS", {"small-sam": ("tests.small", "SMALL_SAM")})
    found = export()
    assert len(found.search["steps"]) == len(before)
    assert found.search["gates_met"]


def test_gates_that_no_recipe_meets_end_the_export(
    export: Callable[..., Export], tmp_path: Path
) -> None:
    events: list[StageEvent] = []
    gates = replace(LOOSE, cosine=1.0)
    with pytest.raises(pipeline.ParityFailed) as failure:
        export(gates=gates)
    assert failure.value.exit_code == 1
    assert not (tmp_path / "x").exists()
    assert events == []
    (kept,) = (tmp_path / "kept").iterdir()
    search = json.loads(kept.read_text("utf-8"))["search"]
    assert not search["gates_met"]
    assert search["complete"]
    # From INT8 activations to weight-only INT8: more would leave no INT8 in the file.
    assert [s["layers"]["weight_only"] for s in search["steps"]] == [0, 1]


def measured(iou: float, *, score: float, best: int = 1, gates: Gates = LOOSE) -> Measured:
    """What a search reads from three prompts whose masks all have this IoU and this score."""
    cases = [
        CaseResult(
            case=f"image/{i}",
            mask_iou=(iou,) * 3,
            boundary_iou=(iou,) * 3,
            score_error=0.0,
            best=1,
            artifact_best=best,
            score_gap=0.1,
            best_iou=iou,
            user_masks=(0, 1),
            scores=(score,) * 3,
            stability=(0.9,) * 3,
        )
        for i in range(3)
    ]
    tensor = TensorDiff(
        name=EMBEDDINGS, max_abs=0.1, rms=0.1, cosine=0.9999, sqnr_db=33.0, finite=True
    )
    comparison = ComparisonResult(
        point="artifact", component="encoder", case="image", tensors=(tensor,)
    )
    failures = check_gates(gates, [comparison], cases, precision="int8")
    report = ParityReport(
        model="m",
        target="t",
        precision="int8",
        gates=gates,
        comparisons=(comparison,),
        cases=tuple(cases),
        failures=failures,
    )
    return measured_of(report, "encoder", AIMS["size"])


def test_the_aim_is_for_masks_that_pytorch_is_confident_of() -> None:
    good = measured(0.995, score=0.9)
    assert (good.mean_iou, good.min_iou, good.sqnr_db) == (0.995, 0.995, 33.0)
    assert good.meets_gates
    assert good.meets_aim
    near = measured(0.98, score=0.9)
    assert near.meets_gates
    assert not near.meets_aim
    # Masks of random weights mean little: the gates are enough.
    assert measured(0.98, score=0.1).meets_aim
    missed = measured(0.995, score=0.9, gates=replace(LOOSE, mask_iou=0.999))
    assert (missed.meets_gates, missed.meets_aim) == (False, False)
    changed = measured(0.995, score=0.9, best=2)
    assert (changed.ranking_changes, changed.meets_aim) == (3, False)


def test_figures_that_json_lacks_are_left_out() -> None:
    broken = measured(float("nan"), score=0.9)
    assert (broken.mean_iou, broken.min_iou, broken.meets_gates) == (None, None, False)
