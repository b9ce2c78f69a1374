"""Find an INT8 recipe for the given weights, before they are exported.

One pass over the calibration images measures how much each treatment of a layer changes its
product. From these a series of recipes follows (`quantize.ladder`). A simulation predicts the SQNR
of a recipe, and an export by the target's own quantizer confirms it on the evaluation images.

Only the encoder (or the segmenter) is searched. Decoders are small and stay as the model's recipe
has them.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from effsam_export.pipeline.int8 import MINUTE_S, SEARCHED
from effsam_export.pipeline.int8_found import (
    Record,
    evidence_of,
    key_of,
    name_of,
    plan_of,
    recipe_of,
    step_document,
)
from effsam_export.pipeline.int8_measure import (
    AIMS,
    Subject,
    confirmed,
    measured_inputs,
    with_gains,
)
from effsam_export.pipeline.int8_steps import Step, search
from effsam_export.pipeline.stage_cache import StageCache
from effsam_export.quantize.ladder import ladder
from effsam_export.quantize.rules import rules_of
from effsam_export.util.progress import stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from effsam_export.calibration.samples import Calibration
    from effsam_export.config.int8_recipe import Int8Plan
    from effsam_export.pipeline.plan import ExportPlan
    from effsam_export.pipeline.workspace import Workspace

MAX_DB = 200.0
"""Stands for an infinite SQNR."""


def with_found_recipe(
    plan: ExportPlan,
    module: nn.Module,
    weights_sha256: str,
    calibration: Calibration | None,
    space: Workspace,
) -> ExportPlan:
    """Return the plan with the recipe that a search finds, or found in an earlier export.

    Args:
        plan: The export. Without a search, or without an encoder, it is returned as it is.
        module: The loaded model.
        weights_sha256: Of its weights, as in `weights.facts`.
        calibration: The calibration images.
        space: Where temporary files are written.

    Returns:
        The plan; its stage cache has what the trials share with the export.

    Raises:
        ConversionFailed: A converter crashed.
    """
    request = plan.int8
    spec = next((c for c in plan.components if c.name in SEARCHED), None)
    if request is None or request.search is None or calibration is None or spec is None:
        return plan
    folder = request.search.folder
    key = key_of(plan, weights_sha256, spec.name)
    if plan.stage_cache is None:
        plan = replace(plan, stage_cache=StageCache(root=space.scratch / "stages", parts={}))
    began = time.perf_counter()
    with stage(f"search {spec.name}", space.on_event) as running:
        path = None if folder is None else folder / f"{key}.json"
        record = Record(path=path, on_note=running.note)
        found = record.result()
        running.detail = "INT8 recipe of an earlier export"
        if found is None:
            subject = Subject(
                plan=plan, module=module, spec=spec, calibration=calibration, space=space
            )
            found = find(subject, record, began)
            running.detail = words(found)
        if sentence := shortfall(found):
            running.note(sentence)
    return replace(plan, int8=replace(request, plan=found, search=None))


def find(subject: Subject, record: Record, began: float) -> Int8Plan:
    """Search a recipe, and keep it in the record if it meets the gates or nothing is left to try.

    Args:
        subject: What is searched.
        record: The file that keeps the search.
        began: When the search began, by `time.perf_counter`.
    """
    from effsam_export.quantize.simulate import predicted_db, sensitivities

    plan, spec = subject.plan, subject.spec
    assert plan.int8 is not None
    aim = AIMS[subject.optimize]
    rules = rules_of(plan.target.backend, plan.target.options)
    wrapped = spec.wrap(subject.module).eval()
    statistics = measured_inputs(subject, wrapped)

    def time_left() -> float:
        return subject.budget_s - (time.perf_counter() - began)

    layers = sensitivities(wrapped, statistics, rules)
    gains = record.gains()
    if all(layer.path in gains for layer in layers):
        layers = tuple(replace(layer, gain=gains[layer.path]) for layer in layers)
    else:
        layers = with_gains(subject, wrapped, statistics, layers, time_left)
        record.add_gains({layer.path: layer.gain for layer in layers})
    rungs = ladder(layers, subject.optimize)
    if not rungs:
        return plan.int8.plan
    # The series for `accuracy` has no aim but its end.
    rungs = rungs[-1:] if subject.optimize == "accuracy" else rungs

    @cache
    def predict(rung: int) -> float:
        treatments = rungs[rung].treatments
        db = predicted_db(wrapped, statistics, rules, treatments)
        return -MAX_DB if math.isnan(db) else min(MAX_DB, max(-MAX_DB, db))

    known = record.steps()
    names = [name_of(rung) for rung in rungs]

    def confirm(rung: int, db: float) -> Step:
        if names[rung] in known:
            return replace(known[names[rung]], rung=rung, predicted_db=db)
        trial_plan = plan_of(plan, spec.name, recipe_of(rungs[rung], layers), None)
        number = len(record.steps()) + 1
        with stage(f"step {number}", subject.space.on_event) as running:
            measured = confirmed(subject, trial_plan)
            step = Step(rung=rung, predicted_db=db, measured=measured, seconds=running.seconds)
            left = max(0.0, time_left()) / MINUTE_S
            running.detail = f"{step_words(step_document(step, rungs))}; {left:.0f} min left"
        record.add(names[rung], step)
        return step

    found = search([r.cost for r in rungs], predict, confirm, aim.sqnr_db, time_left)
    recipe = recipe_of(rungs[found.rung], layers)
    evidence = evidence_of(subject.optimize, spec.name, asdict(aim), layers, rungs, found)
    own = plan_of(plan, spec.name, recipe, evidence)
    if found.complete or evidence["gates_met"]:
        record.finish(own)
    return own


def words(found: Int8Plan) -> str:
    """Return the result of a search in one line."""
    search = found.search
    if search is None:
        return "no layer can be quantized"
    step = next((s for s in search["steps"] if s["chosen"]), None)
    tried = f"{len(search['steps'])} of {search['recipes']} recipes confirmed"
    ended = "" if search["complete"] else ", time is up"
    if step is None:
        return f"{tried}{ended}: the predicted recipe is not confirmed"
    return f"{tried}{ended}; {step_words(step)}"


def step_words(step: Mapping[str, Any]) -> str:
    """Return a step of the evidence in one line."""
    counts, measured = step["layers"], step["measured"]
    layers = ", ".join(
        f"{counts[name]} {label}"
        for name, label in (
            ("w8a8", "W8A8"),
            ("weight_only", "weight-only"),
            ("keep_float", "FP16"),
        )
        if counts[name]
    )
    parts = [f"layers: {layers}", f"predicted {step['predicted_db']:.1f} dB"]
    if measured["sqnr_db"] is not None:
        parts.append(f"measured {measured['sqnr_db']:.1f} dB")
    if measured["min_iou"] is not None:
        parts.append(f"mask IoU min {measured['min_iou']:.4f}, mean {measured['mean_iou']:.4f}")
    if not measured["meets_gates"]:
        parts.append("gates missed")
    elif not measured["meets_aim"]:
        parts.append("aim missed")
    return "; ".join(parts)


def shortfall(found: Int8Plan) -> str:
    """Return what a search did not reach, as a sentence; empty if it reached its aim."""
    search = found.search
    if search is None or search["aim_met"]:
        return ""
    ended = "nothing is left to try" if search["complete"] else "the time is up"
    if search["gates_met"]:
        aim = search["aim"]
        return (
            f"{ended}: the INT8 recipe meets the gates, but not the aim of the search (mask IoU "
            f"mean {aim['mean_iou']:g}, min {aim['min_iou']:g})"
        )
    if not search["steps"]:
        return f"{ended}: no INT8 recipe was confirmed, and the predicted one is exported"
    return f"{ended}: no INT8 recipe met the gates, and the best one so far is exported"
