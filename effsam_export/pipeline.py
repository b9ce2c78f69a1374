"""The whole flow on one screen: checkpoint -> traced graphs -> artefacts -> parity -> bundle."""

from __future__ import annotations

import filecmp
import platform
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effsam_export import backends, convert, int8, isolate, profiles, worth
from effsam_export.errors import CheckFailed, UsageError
from effsam_export.models import fixed
from effsam_export.progress import ignore, stage
from effsam_export.spec import Artifact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from effsam_export.backends import Backend, Session
    from effsam_export.bundle.manifest import Exported
    from effsam_export.calibration.samples import Calibration
    from effsam_export.parity.check import Findings
    from effsam_export.parity.results import ParityReport
    from effsam_export.profiles import ParityImage
    from effsam_export.progress import Observer
    from effsam_export.spec import Checkpoint, ComponentSpec, Graph, ModelSpec, TargetProfile
    from effsam_export.stage_cache import Stages

TRACING_TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow")


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What is to be exported.

    Attributes:
        components: Names; all of the model's when empty.
        output: Directory of the bundle.
        parity_file: A user's own photographs and prompts, or None for those that ship.
        force: Replace a bundle that is at `output`.
        int8: What an INT8 export calibrates on and quantizes; None for another precision.
        stages: Where what other exports need too is kept; None for nowhere.
    """

    model: ModelSpec
    target: TargetProfile
    checkpoint: Checkpoint
    output: Path
    components: tuple[str, ...] = ()
    parity_file: Path | None = None
    force: bool = False
    int8: int8.Int8Request | None = None
    stages: Stages | None = None

    @property
    def prepared(self) -> ModelSpec:
        """The model as the target gets it: with fixed shapes, if it wants them."""
        return fixed.for_options(self.model, self.target.options)

    @property
    def chosen(self) -> tuple[ComponentSpec, ...]:
        """The components to export, in the model's order."""
        components = self.prepared.components
        return tuple(c for c in components if not self.components or c.name in self.components)


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


def with_checkpoint(request: ExportRequest, checkpoint: Checkpoint) -> ExportRequest:
    """The same request, from these weights."""
    return replace(request, checkpoint=checkpoint)


def check_request(request: ExportRequest) -> None:
    """Find out, before any slow work, whether an export can be done as asked.

    Raises:
        ToolchainMissing: A package is not installed.
        OutputError: The output place is taken.
        UsageError: The model has no such component, the parity file is broken,
            or photographs of it are missing.
    """
    from effsam_export.bundle import place

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
    place.check_free(request.output, force=request.force)
    photographs = profiles.load_parity_images(request.parity_file)
    absent = [f"`{i.path}`" for i in photographs if not i.path.is_file()]
    if absent:
        raise UsageError(f"photographs to judge by do not exist: {', '.join(absent)}")


def export(request: ExportRequest, observer: Observer = ignore) -> ParityReport:
    """Export, prove, and write the bundle; nothing is at `output` unless everything passed.

    Raises:
        ParityFailed: The artefacts do not reach the target's gates; the evidence is kept in
            `<output>.failed`.
        ConversionFailed: A converter crashed; its log is kept there.
        EffsamError: Anything `check_request`, the checkpoint or the file system objects to.
    """
    from effsam_export import report
    from effsam_export.bundle import place, write
    from effsam_export.models import loading

    check_request(request)
    model, target = request.prepared, request.target
    backend = backends.load(target.backend)
    with stage("load", observer) as running:
        module = loading.load(model, request.checkpoint)
        running.detail = f"sha256 {request.checkpoint.sha256[:12]}"
    with place.staged(request.output) as work, kept_logs(request.output) as scratch:
        calibration = int8.calibrated(request, scratch, observer)
        exported = lowered(request, module, calibration, work, scratch, observer)
        pairs = [(e.graph, e.artifact) for e in exported]
        gains = worth.measure(pairs, target, scratch, observer, stages=request.stages)
        exported = combined(exported, target, work)
        with stage("parity", observer) as running:
            findings = prove(request, module, exported, backend, running.advance)
            running.detail = summary(findings.report)
            running.failed = not findings.report.passed
        html = report.render(findings.report, findings.pictures, gains)
        if not findings.report.passed:
            evidence = evidence_of(request.output)
            keep_evidence(evidence, findings, html)
            raise ParityFailed(findings.report, evidence)
        with stage("bundle", observer) as running:
            manifest = write.write(
                work,
                model=model,
                target=target,
                checkpoint=request.checkpoint,
                exported=exported,
                findings=findings,
                html=html,
                versions=versions(exported),
                calibration=calibration,
                timed=any(g.time_share is not None for g in gains),
            )
            running.detail = f"{len(manifest['files']) + 1} files"
    return findings.report


def lowered(
    request: ExportRequest,
    module: nn.Module,
    calibration: Calibration | None,
    work: Path,
    scratch: Path,
    observer: Observer,
) -> list[Exported]:
    """Every chosen component in the target's format, the encoder first."""
    exported: list[Exported] = []
    for component in request.chosen:
        quantized = int8.quantization(request, component, calibration, exported)
        exported.append(
            convert.component(request, module, component, work, scratch, observer, quantized)
        )
    return exported


def combined(exported: list[Exported], target: TargetProfile, work: Path) -> list[Exported]:
    """All components in one file with a signature for each, where a TFLite target asks for it."""
    if not target.options.get("single_file"):
        return exported
    from effsam_export.backends import tflite

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


def prove(
    request: ExportRequest,
    module: nn.Module,
    exported: list[Exported],
    backend: Backend,
    progress: Callable[[int, int], None],
) -> Findings:
    """Judge the artefacts against the untouched reference on real photographs."""
    from effsam_export.parity.check import Sides, check

    sources = {e.artifact.component: source_of(request, e.graph) for e in exported}
    sides = Sides(
        module=module,
        sources=sources,
        # An artefact that is the traced graph to the byte is not opened and run a second time.
        artifacts={
            e.artifact.component: sources[e.artifact.component]
            if same_file(e)
            else backend.open_session(e.artifact)
            for e in exported
        },
        stand_in=backend.stand_in(request.target.options),
    )
    model = with_memory(request)
    images, left_out = judged_by(model, request.parity_file)
    return check(model, request.target, sides, images, left_out=left_out, progress=progress)


def with_memory(request: ExportRequest) -> ModelSpec:
    """The model, its PyTorch answers from the cache of stages where there is one."""
    from effsam_export.parity.memo import remembering

    model, stages = request.prepared, request.stages
    if stages is None:
        return model
    components = tuple(
        remembering(c, stages.answers("reference", {"component": c.name})) for c in model.components
    )
    return replace(model, components=components)


def source_of(request: ExportRequest, graph: Graph) -> Session:
    """A traced graph in ONNX Runtime, its answers from the cache of stages where there is one."""
    from effsam_export.parity.memo import Remembered
    from effsam_export.weights import sha256_of

    session = open_source(graph)
    if request.stages is None:
        return session
    own = " ".join(sha256_of(path) for path in graph.files)
    return Remembered(session, request.stages.answers("source", {"graph": own}))


def judged_by(
    model: ModelSpec, parity_file: Path | None
) -> tuple[tuple[ParityImage, ...], tuple[str, ...]]:
    """The user's own photographs and prompts; or those that ship, as far as the model takes them.

    The second part says which of those were left out, and why.
    """
    from effsam_export.parity.check import honoured

    images = profiles.load_parity_images(parity_file)
    return honoured(images, model.prompts) if parity_file is None else (images, ())


def same_file(exported: Exported) -> bool:
    """Whether an artefact is its traced graph, byte for byte, in the same runtime."""
    first = exported.artifact.files[0]
    return exported.artifact.backend == "onnx" and filecmp.cmp(
        exported.graph.path, first, shallow=False
    )


def open_source(graph: Graph) -> Session:
    """A traced graph in ONNX Runtime, for the seam between PyTorch and ONNX."""
    return open_onnx(graph.component.name, graph.path)


def open_onnx(component: str, path: Path) -> Session:
    """Any ONNX file of a component in ONNX Runtime."""
    artifact = Artifact(
        component=component,
        backend="onnx",
        precision="fp32",
        files=(path,),
        tensors_by_dtype={},
        versions={},
        options={},
    )
    return backends.load("onnx").open_session(artifact)


def keep_evidence(directory: Path, findings: Findings, html: str) -> None:
    """Write report and figures of a failed check; no manifest, so nobody takes it for a bundle."""
    from effsam_export.bundle import write

    directory.mkdir(parents=True, exist_ok=True)
    write.write_json(directory / "parity.json", write.parity_document(findings.report))
    (directory / "report.html").write_text(html, "utf-8")


def versions(exported: list[Exported]) -> dict[str, str]:
    """Version of Python and of every package that took part."""
    found = {name: metadata.version(name) for name in TRACING_TOOLS}
    for entry in exported:
        found.update(entry.artifact.versions)
    return {"python": platform.python_version(), **found}


def summary(report: ParityReport) -> str:
    """The result of a parity check in a few words."""
    if report.cases:
        least = min(c.answer_iou for c in report.cases)
        left = f", {len(report.left_out)} not for this model" if report.left_out else ""
        return f"{len(report.cases)} prompts{left}, least mask IoU {least:.4f}"
    return f"{len(report.seams)} comparisons"


def figures(report: ParityReport) -> dict[str, Any]:
    """A report's end-to-end figures for a JSON document."""
    return {
        "model": report.model,
        "target": report.target,
        "precision": report.precision,
        "state": report.state,
        "stand_in": report.stand_in,
        "gates": asdict(report.gates),
        "cases": [{**asdict(c), "answer_iou": c.answer_iou} for c in report.cases],
        "left_out": list(report.left_out),
    }
