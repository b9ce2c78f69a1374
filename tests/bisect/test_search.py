"""The search for layers to keep out of INT8, on simulated evaluations with a known result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from effsam_export import models
from effsam_export.bisect import search as searching
from effsam_export.bisect.evaluations import Evaluation, EvaluationLog
from effsam_export.bisect.recipe import search_key
from effsam_export.bisect.search import Gate
from effsam_export.config import calibration, int8_recipe
from effsam_export.config import targets as profiles
from effsam_export.errors import CheckFailed
from effsam_export.pipeline import stage_keys
from effsam_export.pipeline.plan import resolve
from effsam_export.pipeline.request import ExportRequest, Int8Request
from effsam_export.spec.stages import Checkpoint
from effsam_export.util import installed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.bisect.evaluations import Override

LAYERS = [f"encoder:layers.{i}.{name}" for i in range(8) for name in ("norm", "attn", "fc1", "fc2")]
GATE = Gate(min_iou=0.9, mean_iou=0.95)


class CostModel:
    """Masks lose a fixed share for each layer that is quantized; some only through activations."""

    def __init__(self, costs: Mapping[str, float], weights: frozenset[str] = frozenset()) -> None:
        self.costs, self.weights, self.calls = costs, weights, 0

    def __call__(self, overrides: Mapping[str, Override]) -> Evaluation:
        self.calls += 1
        lost = 0.0
        for layer, cost in self.costs.items():
            how = overrides.get(layer)
            if how is None or (how == "weight_only" and layer in self.weights):
                lost += cost
        return Evaluation(
            mean_iou=1 - lost, min_iou=1 - 2 * lost, ranking_changes=0, failed_gates=int(lost > 0.5)
        )


def log(path: Path, evaluate: CostModel, key: str = "q") -> EvaluationLog:
    return EvaluationLog(path / "search.json", key, evaluate, lambda count, expected, seconds: None)


def test_the_few_layers_that_matter_are_found(tmp_path: Path) -> None:
    bad = {"encoder:layers.2.fc2": 0.3, "encoder:layers.5.attn": 0.2}
    evaluate = CostModel({**dict.fromkeys(LAYERS, 0.0005), **bad})
    book = log(tmp_path, evaluate)
    outcome = searching.search(LAYERS, GATE, book)
    assert [c.layer for c in outcome.choices] == list(bad)
    assert [round(c.sensitivity, 3) for c in outcome.choices] == [0.3, 0.2]
    assert not GATE.is_met(outcome.before)
    assert GATE.is_met(outcome.after)
    assert outcome.layers == len(LAYERS)
    assert evaluate.calls <= searching.likely_evaluations(LAYERS)
    # By the end of the search for the head the guess follows from what is overrides.
    assert evaluate.calls <= book.expected <= searching.likely_evaluations(LAYERS)


def test_weights_go_to_int8_where_only_the_activations_hurt(tmp_path: Path) -> None:
    bad = {"encoder:layers.2.fc2": 0.3, "encoder:layers.5.attn": 0.2}
    evaluate = CostModel(bad, weights=frozenset({"encoder:layers.5.attn"}))
    outcome = searching.search(LAYERS, GATE, log(tmp_path, evaluate), weighted=LAYERS)
    assert {c.layer: c.treatment for c in outcome.choices} == {
        "encoder:layers.2.fc2": "weight_only",
        "encoder:layers.5.attn": "keep_float",
    }


def test_only_layers_with_weights_go_to_int8(tmp_path: Path) -> None:
    bad = {"encoder:layers.2.fc2": 0.3, "encoder:layers.5.norm": 0.2}
    outcome = searching.search(
        LAYERS, GATE, log(tmp_path, CostModel(bad)), weighted=["encoder:layers.2.fc2"]
    )
    kinds = {c.layer: c.treatment for c in outcome.choices}
    assert kinds == {"encoder:layers.2.fc2": "weight_only", "encoder:layers.5.norm": "keep_float"}


def test_no_single_override_can_be_removed(tmp_path: Path) -> None:
    costs = {layer: 0.001 * (i + 1) for i, layer in enumerate(LAYERS)}
    evaluate = CostModel(costs, weights=frozenset(LAYERS))
    outcome = searching.search(LAYERS, GATE, log(tmp_path, evaluate))
    overrides = {c.layer: c.treatment for c in outcome.choices}
    assert GATE.is_met(evaluate(overrides))
    for layer in overrides:
        assert not GATE.is_met(evaluate({k: v for k, v in overrides.items() if k != layer}))


def test_no_overrides_if_the_gate_is_met(tmp_path: Path) -> None:
    evaluate = CostModel(dict.fromkeys(LAYERS, 0.0001))
    outcome = searching.search(LAYERS, GATE, log(tmp_path, evaluate))
    assert outcome.choices == ()
    assert (outcome.evaluations, evaluate.calls) == (1, 1)


def test_an_unreachable_gate_is_refused_with_a_reachable_value(tmp_path: Path) -> None:
    def hopeless(overrides: Mapping[str, Override]) -> Evaluation:
        del overrides
        return Evaluation(mean_iou=0.9, min_iou=0.8, ranking_changes=0, failed_gates=0)

    book = EvaluationLog(tmp_path / "s.json", "q", hopeless, lambda count, expected, seconds: None)
    with pytest.raises(
        CheckFailed, match=r"with nothing quantized the min mask IoU is 0\.8000"
    ) as e:
        searching.search(LAYERS, GATE, book)
    assert e.value.hint == "--min-iou 0.79 could be reached"


@pytest.mark.parametrize(
    ("evaluation", "holds"),
    [
        (Evaluation(mean_iou=0.95, min_iou=0.9, ranking_changes=0, failed_gates=0), True),
        (Evaluation(mean_iou=0.949, min_iou=0.9, ranking_changes=0, failed_gates=0), False),
        (Evaluation(mean_iou=0.95, min_iou=0.89, ranking_changes=0, failed_gates=0), False),
        (Evaluation(mean_iou=0.99, min_iou=0.99, ranking_changes=1, failed_gates=1), False),
        # Two scores closer than they may be off: an export takes it too.
        (Evaluation(mean_iou=0.99, min_iou=0.99, ranking_changes=1, failed_gates=0), True),
        (Evaluation(mean_iou=float("nan"), min_iou=0.99, ranking_changes=0, failed_gates=0), False),
    ],
)
def test_a_gate_needs_both_ious_and_no_other_failure(evaluation: Evaluation, holds: bool) -> None:
    assert GATE.is_met(evaluation) is holds


def test_an_interrupted_search_goes_on_where_it_stopped(tmp_path: Path) -> None:
    bad = {"encoder:layers.2.fc2": 0.3, "encoder:layers.5.attn": 0.2}

    class Interrupted(CostModel):
        def __call__(self, overrides: Mapping[str, Override]) -> Evaluation:
            if self.calls == 7:
                raise KeyboardInterrupt
            return super().__call__(overrides)

    with pytest.raises(KeyboardInterrupt):
        searching.search(LAYERS, GATE, log(tmp_path, Interrupted(bad)))
    later, whole = CostModel(bad), CostModel(bad)
    resumed = searching.search(LAYERS, GATE, log(tmp_path, later))
    (tmp_path / "other").mkdir()
    fresh = searching.search(LAYERS, GATE, log(tmp_path / "other", whole))
    assert resumed == fresh
    assert later.calls == whole.calls - 7


def test_evaluations_with_another_key_are_ignored(tmp_path: Path) -> None:
    evaluate = CostModel({"encoder:layers.2.fc2": 0.3})
    log(tmp_path, evaluate, "first").evaluate({})
    log(tmp_path, evaluate, "first").evaluate({})
    assert evaluate.calls == 1
    log(tmp_path, evaluate, "second").evaluate({})
    assert evaluate.calls == 2
    assert json.loads((tmp_path / "search.json").read_text())["key"] == "second"


BOTH = [*LAYERS, *(f"decoder:blocks.{i}.{name}" for i in range(4) for name in ("attn", "mlp"))]


def test_the_encoder_is_searched_first_and_leaves_half_of_the_loss(tmp_path: Path) -> None:
    # 0.03 of each would hold the gate of 0.95 alone; both are to cost 0.025 at most.
    costs = {
        "encoder:layers.2.fc2": 0.03,
        "encoder:layers.3.fc1": 0.02,
        "decoder:blocks.1.mlp": 0.03,
    }
    asked: list[Mapping[str, Override]] = []
    evaluate = CostModel(costs)

    def noted(overrides: Mapping[str, Override]) -> Evaluation:
        asked.append(overrides)
        return evaluate(overrides)

    book = EvaluationLog(tmp_path / "s.json", "q", noted, lambda count, expected, seconds: None)
    outcome = searching.search(BOTH, Gate(min_iou=0.9, mean_iou=0.95), book)
    assert {c.layer for c in outcome.choices} == {"encoder:layers.2.fc2"}
    assert round(outcome.after.mean_iou, 3) == 0.95
    first = next(i for i, k in enumerate(asked) if 0 < sum(x.startswith("decoder") for x in k) < 8)
    # Once a decoder is looked at, its encoder stays.
    later = [{x for x in k if x.startswith("encoder")} for k in asked[first:]]
    assert all(k == {"encoder:layers.2.fc2"} for k in later)


def test_all_components_together_meet_the_gate_exactly(tmp_path: Path) -> None:
    gate, best = (
        Gate(min_iou=0.1 + 0.2, mean_iou=0.7),
        Evaluation(mean_iou=0.999, min_iou=0.9973, ranking_changes=0, failed_gates=0),
    )
    assert gate.tightened(best, 1) == gate
    assert gate.tightened(best, 0) == Gate(min_iou=best.min_iou, mean_iou=best.mean_iou)


class Target(CostModel):
    """Loses more than the simulator, or has a fault of its own."""

    def __init__(self, costs: Mapping[str, float], always: float = 0.0) -> None:
        super().__init__(costs)
        self.always = always

    def __call__(self, overrides: Mapping[str, Override]) -> Evaluation:
        found = super().__call__(overrides)
        return replace(found, mean_iou=found.mean_iou - self.always)


def own(path: Path, evaluate: CostModel, target: CostModel) -> EvaluationLog:
    return EvaluationLog(
        path / "s.json", "q", evaluate, lambda count, expected, seconds: None, target
    )


def test_the_targets_own_quantizer_is_evaluated_last(tmp_path: Path) -> None:
    bad = {"encoder:layers.2.fc2": 0.3}
    agrees = Target(bad)
    outcome = searching.search(LAYERS, GATE, own(tmp_path, CostModel(bad), agrees))
    assert [c.layer for c in outcome.choices] == list(bad)
    assert outcome.deployed == outcome.after
    assert agrees.calls == 1


def test_more_layers_stay_in_float_if_the_target_loses_more(tmp_path: Path) -> None:
    bad = {"encoder:layers.2.fc2": 0.3, "encoder:layers.4.fc1": 0.02, "encoder:layers.6.fc1": 0.01}
    more = {**bad, "encoder:layers.4.fc1": 0.2}
    outcome = searching.search(LAYERS, GATE, own(tmp_path, CostModel(bad), Target(more)))
    assert [c.layer for c in outcome.choices] == ["encoder:layers.2.fc2", "encoder:layers.4.fc1"]
    assert outcome.deployed is not None
    assert GATE.is_met(outcome.deployed)


def test_a_target_that_cannot_meet_the_gate_is_an_error(tmp_path: Path) -> None:
    bad = {"encoder:layers.2.fc2": 0.3}
    with pytest.raises(
        CheckFailed, match="the target misses the gate with any number of layers in floating point"
    ) as e:
        searching.search(LAYERS, GATE, own(tmp_path, CostModel(bad), Target(bad, always=0.2)))
    assert "mean 0.8000" in e.value.message


def test_few_more_layers_are_tried_before_many(tmp_path: Path) -> None:
    costs = {layer: 0.001 * (i + 1) for i, layer in enumerate(reversed(LAYERS))}
    asked: list[int] = []

    class Refusing(Target):
        """Refuses a file with more than half of the layers in floating point."""

        def __call__(self, overrides: Mapping[str, Override]) -> Evaluation:
            asked.append(len(overrides))
            if len(overrides) > len(LAYERS) // 2:
                return Evaluation(mean_iou=0, min_iou=0, ranking_changes=0, failed_gates=1)
            return super().__call__(overrides)

    gate = Gate(min_iou=0.0, mean_iou=0.8)
    target = Refusing({layer: 1.2 * cost for layer, cost in costs.items()})
    outcome = searching.search(LAYERS, gate, own(tmp_path, CostModel(costs), target))
    found = len(outcome.choices)
    assert outcome.deployed is not None
    assert gate.is_met(outcome.deployed)
    # One layer less, and the target misses the gate.
    assert found - 1 in asked
    assert max(asked) <= 2 * found


def test_evaluations_of_the_target_are_stored_separately(tmp_path: Path) -> None:
    bad = {"encoder:layers.2.fc2": 0.3}
    evaluate, target = CostModel(bad), Target(bad, always=0.1)
    book = own(tmp_path, evaluate, target)
    assert book.evaluate({}) != book.evaluate_target({})
    again = own(tmp_path, evaluate, target)
    assert again.evaluate_target({}) == book.evaluate_target({})
    assert (evaluate.calls, target.calls) == (1, 1)
    assert log(tmp_path, evaluate).evaluate_target({}) is None


def test_layers_are_grouped_by_their_block() -> None:
    layers = [
        "encoder:patch.seq.0.c",
        "encoder:patch.seq.2.c",
        "encoder:layers.1.blocks.0.attn.qkv",
        "encoder:layers.1.blocks.0.mlp.fc1",
        "encoder:layers.1.blocks.1.mlp.fc1",
        "encoder:neck.0",
        "encoder:neck.2",
        "decoder:transformer.final",
    ]
    assert searching.blocks(layers) == [
        ["encoder:patch.seq.0.c"],
        ["encoder:patch.seq.2.c"],
        layers[2:4],
        [layers[4]],
        ["encoder:neck.0", "encoder:neck.2"],
        ["decoder:transformer.final"],
    ]


def test_other_versions_have_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    one = ExportRequest(
        model=models.get("mobile-sam"),
        target=profiles.load_target("onnx", "int8"),
        checkpoint=Checkpoint(path=Path("x.pt"), sha256="1" * 64, official=True),
        output=Path("unused"),
        int8=Int8Request(calibration=calibration.load(), plan=int8_recipe.load("mobile-sam")),
    )
    plan = resolve(one)
    before = search_key(plan)
    assert search_key(replace(plan, output=Path("other"))) == before
    other = replace(one.weights, sha256="2" * 64)
    assert search_key(plan.with_checkpoint(other)) != before
    with monkeypatch.context() as patched:
        patched.setattr(installed, "version_of", lambda _: "99.0")
        assert search_key(plan) != before
    monkeypatch.setattr(stage_keys, "code_hash", lambda: "other")
    assert search_key(plan) != before
