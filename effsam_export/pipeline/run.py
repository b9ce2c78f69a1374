"""The whole flow on one screen: checkpoint -> traced graphs -> artefacts -> parity -> bundle."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effsam_export import backends
from effsam_export.config.parity import load_parity_images
from effsam_export.errors import CheckFailed, UsageError
from effsam_export.pipeline import component as convert
from effsam_export.pipeline import int8, int8_comparison, isolate
from effsam_export.pipeline.prove import prove
from effsam_export.util.progress import ignore_event, stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from effsam_export.bundle.manifest import Exported
    from effsam_export.calibration.samples import Calibration
    from effsam_export.parity.check import ParityResult
    from effsam_export.parity.results import ParityReport
    from effsam_export.pipeline.request import ExportRequest
    from effsam_export.spec.targets import TargetProfile
    from effsam_export.util.progress import OnEvent


class ParityFailed(CheckFailed):
    """The export was made and does not segment like the PyTorch model."""

    def __init__(self, report: ParityReport, evidence: Path) -> None:
        shown = "\n  ".join(report.failures[:8])
        more = len(report.failures) - 8
        super().__init__(
            f"parity failed, no bundle was written:\n  {shown}"
            + (f"\n  and {more} more" if more > 0 else ""),
            hint=f"everything measured is in `{evidence}`",
        )
        self.report = report


def check_request(request: ExportRequest) -> None:
    """Find out, before any slow work, whether an export can be done as asked.

    Raises:
        ToolchainMissing: A package is not installed.
        OutputError: The output place is taken.
        UsageError: The model has no such component, the parity file is broken,
            or photographs of it are missing.
    """
    from effsam_export.bundle import staging

    backends.load(request.target.backend)
    backends.require_lowering(request.target.backend)
    backends.require_tracing()
    if request.target.precision == "int8":
        backends.require_quantizer(request.target.backend)
    known = {c.name for c in request.prepared.components}
    unknown = [c for c in request.components if c not in known]
    if unknown:
        raise UsageError(
            f"model `{request.model.name}` has no component `{unknown[0]}`",
            hint=f"it has {', '.join(sorted(known))}",
        )
    staging.check_output_free(request.output, force=request.force)
    photographs = load_parity_images(request.parity_file)
    absent = [f"`{i.path}`" for i in photographs if not i.path.is_file()]
    if absent:
        raise UsageError(f"photographs to judge by do not exist: {', '.join(absent)}")


def export(request: ExportRequest, on_event: OnEvent = ignore_event) -> ParityReport:
    """Export, prove, and write the bundle; nothing is at `output` unless everything passed.

    Raises:
        ParityFailed: The artefacts do not reach the target's gates; the evidence is kept in
            `<output>.failed`.
        ConversionFailed: A converter crashed; its log is kept there.
        EffsamError: Anything `check_request`, the checkpoint or the file system objects to.
    """
    from effsam_export.bundle import staging, write
    from effsam_export.pipeline import report
    from effsam_export.weights import checkpoint as loading

    check_request(request)
    model, target = request.prepared, request.target
    backend = backends.load(target.backend)
    with stage("load", on_event) as running:
        module = loading.load(model, request.checkpoint)
        running.detail = f"sha256 {request.checkpoint.sha256[:12]}"
    with staging.staged(request.output) as work, kept_logs(request.output) as scratch:
        calibration = int8.calibrated(request, scratch, on_event)
        exported = lowered(request, module, calibration, work, scratch, on_event)
        pairs = [(e.graph, e.artifact) for e in exported]
        int8_comparisons = int8_comparison.measure(
            pairs, target, scratch, on_event, stage_cache=request.stage_cache
        )
        exported = combined(exported, target, work)
        with stage("parity", on_event) as running:
            findings = prove(request, module, exported, backend, running.on_progress)
            running.detail = summary(findings.report)
            running.failed = not findings.report.passed
        html = report.render(findings.report, findings.pictures, int8_comparisons)
        if not findings.report.passed:
            evidence = evidence_of(request.output)
            keep_evidence(evidence, findings, html)
            raise ParityFailed(findings.report, evidence)
        with stage("bundle", on_event) as running:
            manifest = write.write(
                work,
                model=model,
                target=target,
                checkpoint=request.checkpoint,
                exported=exported,
                parity=findings,
                html=html,
                versions=write.versions(exported),
                calibration=calibration,
                timed=any(g.time_share is not None for g in int8_comparisons),
            )
            running.detail = f"{len(manifest['files']) + 1} files"
    return findings.report


def lowered(
    request: ExportRequest,
    module: nn.Module,
    calibration: Calibration | None,
    work: Path,
    scratch: Path,
    on_event: OnEvent,
) -> list[Exported]:
    """Every chosen component in the target's format, the encoder first."""
    exported: list[Exported] = []
    for component in request.chosen:
        quantized = int8.quantization(request, component, calibration, exported)
        exported.append(
            convert.component(request, module, component, work, scratch, on_event, quantized)
        )
    return exported


def combined(exported: list[Exported], target: TargetProfile, work: Path) -> list[Exported]:
    """All components in one file with a signature for each, where a TFLite target asks for it."""
    if not target.options.get("single_file"):
        return exported
    from effsam_export.backends.tflite import backend as tflite

    artifacts = tflite.combine(
        [e.artifact for e in exported], [e.graph.component for e in exported], target, work
    )
    return [replace(e, artifact=a) for e, a in zip(exported, artifacts, strict=True)]


def evidence_of(output: Path) -> Path:
    """Where the evidence of a failed export is kept."""
    return output.with_name(f"{output.name}.failed")


@contextmanager
def kept_logs(output: Path) -> Iterator[Path]:
    """A folder for traced programs and logs; after a failed conversion the logs are kept."""
    evidence = evidence_of(output)
    with tempfile.TemporaryDirectory(prefix="effsam-") as name:
        try:
            yield Path(name)
        except isolate.ConversionFailed as failure:
            evidence.mkdir(parents=True, exist_ok=True)
            kept = shutil.copyfile(failure.log, evidence / failure.log.name)
            raise failure.moved(kept) from failure


def keep_evidence(directory: Path, findings: ParityResult, html: str) -> None:
    """Write report and figures of a failed check; no manifest, so nobody takes it for a bundle."""
    from effsam_export.bundle import write

    directory.mkdir(parents=True, exist_ok=True)
    write.write_json(directory / "parity.json", write.parity_document(findings.report))
    (directory / "report.html").write_text(html, "utf-8")


def summary(report: ParityReport) -> str:
    """The result of a parity check in a few words."""
    if report.cases:
        least = min(c.min_iou for c in report.cases)
        left = f", {len(report.left_out)} not for this model" if report.left_out else ""
        return f"{len(report.cases)} prompts{left}, min mask IoU {least:.4f}"
    return f"{len(report.comparisons)} comparisons"


def figures(report: ParityReport) -> dict[str, Any]:
    """A report's end-to-end figures for a JSON document."""
    return {
        "model": report.model,
        "target": report.target,
        "precision": report.precision,
        "state": report.state,
        "simulator": report.simulator,
        "gates": asdict(report.gates),
        "cases": [{**asdict(c), "min_iou": c.min_iou} for c in report.cases],
        "left_out": list(report.left_out),
    }
