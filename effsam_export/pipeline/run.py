"""The whole export on one screen: checkpoint -> traced graphs -> artefacts -> parity -> bundle."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from effsam_export.errors import CheckFailed
from effsam_export.pipeline import (
    details,
    evidence,
    int8,
    int8_comparison,
    int8_search,
    named_files,
    workspace,
)
from effsam_export.pipeline.component import export_components
from effsam_export.pipeline.plan import resolve
from effsam_export.pipeline.prove import compare, open_sides
from effsam_export.util.progress import ignore_event, stage

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.bundle.manifest import Exported
    from effsam_export.parity.check import ParityResult
    from effsam_export.parity.results import ParityReport
    from effsam_export.pipeline.plan import ExportPlan
    from effsam_export.pipeline.request import ExportRequest
    from effsam_export.spec.targets import TargetProfile
    from effsam_export.util.progress import OnEvent

SHOWN_FAILURES = 8
"""Failures that the message of a failed parity check lists."""


class ParityFailed(CheckFailed):
    """The exported model does not segment like the PyTorch model.

    Args:
        report: The measurements and the failures.
        evidence: Directory with the report.
    """

    def __init__(self, report: ParityReport, evidence: Path) -> None:
        more = len(report.failures) - SHOWN_FAILURES
        rest = [f"and {more} more"] if more > 0 else []
        super().__init__(
            "parity failed, no bundle was written:",
            lines=[*report.failures[:SHOWN_FAILURES], *rest],
            hint=f"all measurements are in `{evidence}`",
        )
        self.report = report


def export(request: ExportRequest, on_event: OnEvent = ignore_event) -> ParityReport:
    """Check a request and run it. See `plan.resolve` and `run` for the errors."""
    return run(resolve(request), on_event)


def run(plan: ExportPlan, on_event: OnEvent = ignore_event) -> ParityReport:
    """Export, compare with PyTorch, and write the bundle.

    Nothing is written to `plan.output` unless everything passed.

    Args:
        plan: With its checkpoint.
        on_event: Called with each stage event.

    Raises:
        ParityFailed: A gate was missed; the report is written to `<output>.failed`.
        ConversionFailed: A converter crashed; its log is copied there.
        CheckpointError: The file is not a checkpoint of the model.
        OutputError: The output directory cannot be written, or something else is there in the end;
            the bundle is then kept as `<output>.finished`.
    """
    from effsam_export.bundle import write
    from effsam_export.pipeline import report, report_facts
    from effsam_export.weights import checkpoint

    details.log_plan(plan)
    with stage("load", on_event) as running:
        loaded = checkpoint.load_with_facts(plan.model, plan.weights)
        module = loaded.module
        if loaded.facts.masks is not None:
            plan = plan.with_masks(loaded.facts.masks)
        running.detail = f"sha256 {plan.weights.sha256[:12]}"
        for note in loaded.facts.notes:
            running.note(note)
        details.log_weights(loaded.facts)
    with workspace.opened(plan.output, on_event, force=plan.force) as space:
        calibration = int8.load_calibration(plan, space)
        plan = int8_search.with_found_recipe(
            plan, module, loaded.facts.weights_sha256, calibration, space
        )
        exported = export_components(plan, module, calibration, space)
        comparisons = int8_comparison.measure(
            exported, plan.target, space, stage_cache=plan.stage_cache
        )
        exported = combined(exported, plan.target, space.work)
        exported = named_files.in_layout(exported, plan.target, space.work)
        with stage("parity", on_event) as running:
            sides = open_sides(plan, module, exported)
            parity = compare(plan, sides, running.on_progress)
            versions = write.versions(exported)
            weights = loaded.facts.weights_sha256
            facts = report_facts.collect(plan, weights, exported, sides, comparisons, versions)
            for note in parity.report.notes:
                running.note(note)
            running.detail = summary(parity.report)
            running.failed = not parity.report.passed
        html = report.render(parity.report, parity.pictures, comparisons, facts=facts)
        if not parity.report.passed:
            raise ParityFailed(parity.report, keep_evidence(plan.output, parity, html))
        with stage("bundle", on_event) as running:
            manifest = write.write(
                space.work,
                model=plan.model,
                target=plan.target,
                checkpoint=plan.weights,
                facts=loaded.facts.document(),
                exported=exported,
                parity=parity,
                html=html,
                versions=versions,
                calibration=calibration,
                int8_search=plan.int8.plan.search if plan.int8 else None,
                timed=facts.timed,
            )
            running.detail = f"{len(manifest['files']) + 1} files"
    return parity.report


def combined(exported: list[Exported], target: TargetProfile, work: Path) -> list[Exported]:
    """Combine all components in one file with a signature each, for a TFLite target that asks."""
    if not target.options.get("single_file"):
        return exported
    from effsam_export.backends.tflite import backend as tflite

    artifacts = tflite.combine(
        [e.artifact for e in exported], [e.graph.component for e in exported], target, work
    )
    return [replace(e, artifact=a) for e, a in zip(exported, artifacts, strict=True)]


def keep_evidence(output: Path, parity: ParityResult, html: str) -> Path:
    """Write the report of a failed check beside `output`, and return its directory."""
    from effsam_export.bundle import write

    document = write.json_text(write.parity_document(parity.report))
    return evidence.keep(
        output, {"parity.json": document.encode(), "report.html": html.encode("utf-8")}
    )


def summary(report: ParityReport) -> str:
    """Return the result of a parity check in a few words."""
    if report.min_iou is not None:
        left = f", {len(report.left_out)} not for this model" if report.left_out else ""
        return f"{len(report.cases)} prompts{left}, min mask IoU {report.min_iou:.4f}"
    return f"{len(report.comparisons)} comparisons"


def figures(report: ParityReport) -> dict[str, Any]:
    """Return the end-to-end figures of a report for a JSON document."""
    return {
        "model": report.model,
        "target": report.target,
        "precision": report.precision,
        "state": report.state,
        "simulator": report.simulator,
        "gates": asdict(report.gates),
        "decided_by": report.decided_by,
        "confident_masks": report.confident_masks,
        "cases": [
            {
                **asdict(d.case),
                "min_iou": d.case.min_iou,
                "deciding_masks": list(d.masks),
                "ranking": d.ranking,
            }
            for d in report.decisions
        ],
        "left_out": list(report.left_out),
        "notes": list(report.notes),
    }
