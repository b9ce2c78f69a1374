"""Check a bundle: its files, its golden vectors, and the comparisons with PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from effsam_export.errors import CheckFailed, ToolchainMissing
from effsam_export.util.progress import ignore_event, stage

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.bundle.golden import Golden
    from effsam_export.bundle.read import Bundle
    from effsam_export.parity.results import ParityReport
    from effsam_export.spec.stages import Checkpoint
    from effsam_export.util.progress import OnEvent, OnProgress

Level = Literal["golden", "full"]


@dataclass(frozen=True, kw_only=True)
class GoldenResult:
    """The outputs for one golden prompt: minimum mask IoU and maximum score error."""

    case: str
    mask_iou: float
    score_error: float


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of checking a bundle.

    Attributes:
        golden: Results of the golden prompts; empty for a bundle of one component and for a
            bundle with broken files.
        report: The comparisons with PyTorch; None if they were not run.
        not_run: Why the comparisons were not run, or None.
        placement: Where Core ML runs the operations on this Mac, a sentence for each function.
        failures: Sentences; the bundle passed if there are none and something was checked.
    """

    golden: tuple[GoldenResult, ...]
    report: ParityReport | None
    not_run: str | None
    failures: tuple[str, ...]
    placement: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True if something was checked and nothing failed."""
        return not self.failures and bool(self.golden or self.report)


def verify(
    path: Path,
    *,
    checkpoint: Checkpoint | None = None,
    level: Level | None = None,
    parity_file: Path | None = None,
    key: Path | None = None,
    on_event: OnEvent = ignore_event,
) -> Verification:
    """Check a bundle as far as this machine can.

    Args:
        path: The bundle.
        checkpoint: The weights it was exported from, which the comparisons with PyTorch need.
        level: `golden` stops after the golden vectors. `full` fails if the comparisons with
            PyTorch cannot be run. None runs them if possible, and reports why not otherwise.
        parity_file: TOML file with a user's own evaluation images and prompts.
        key: Public key with which the signature is checked.
        on_event: Called with each stage event.

    Raises:
        BundleError: The path is not a bundle, or its manifest is broken.
        ToolchainMissing: The runtime is missing, or PyTorch is and `level` is `full`.
    """
    from effsam_export.bundle import golden, read, signature

    bundle = read.read(path)
    with stage("files", on_event) as running:
        failures = list(read.integrity(bundle))
        if key is not None and (fault := signature.problem(path, key)):
            failures.append(fault)
        running.detail = f"{len(bundle.manifest['files'])} files"
        running.failed = bool(failures)
    if failures:
        # Files whose hashes differ from the manifest are not opened.
        return Verification(
            golden=(), report=None, not_run="the files are broken", failures=tuple(failures)
        )
    results: tuple[GoldenResult, ...] = ()
    vectors = golden.read_golden(bundle)
    if vectors is not None:
        with stage("golden vectors", on_event) as running:
            results = run_golden(bundle, vectors)
            missed = golden_failures(results, vectors)
            failures += missed
            running.detail = f"{len(results)} prompts, min mask IoU " + (
                f"{min(r.mask_iou for r in results):.4f}"
            )
            running.failed = bool(missed)
    not_run = "only the golden vectors were requested" if level == "golden" else None
    if not_run is None:
        not_run = obstacle(bundle, checkpoint, required=level == "full")
    report = None
    if not_run is None and checkpoint is not None:
        with stage("comparisons", on_event) as running:
            report = run_comparisons(bundle, checkpoint, parity_file, running.on_progress)
            failures += report.failures
            running.detail = f"{len(report.comparisons)} comparisons, {len(report.cases)} prompts"
            running.failed = not report.passed
    return Verification(
        golden=results,
        report=report,
        not_run=not_run,
        failures=tuple(failures),
        placement=placement(bundle),
    )


def placement(bundle: Bundle) -> tuple[str, ...]:
    """Return where Core ML plans to run each function; empty off macOS and for other targets."""
    if bundle.manifest["target"]["backend"] != "coreml" or bundle.simulator:
        return ()
    from effsam_export.backends.coreml import backend as coreml
    from effsam_export.backends.coreml import package as coreml_package
    from effsam_export.backends.coreml import placement as coreml_plan

    units = coreml.parse_options(bundle.manifest["target"]["options"]).compute_units
    lines = []
    for component in bundle.components:
        package = coreml_package.package_of(bundle.artifact(component).files)
        for name, plan in coreml_plan.placement(package, units=units).items():
            devices = ", ".join(f"{n} on the {device}" for device, n in plan.preferred.items())
            supported = plan.supported.get("neural engine", 0)
            lines.append(f"{component}, {name}: {devices}; the neural engine supports {supported}")
    return tuple(lines)


def obstacle(bundle: Bundle, checkpoint: Checkpoint | None, *, required: bool) -> str | None:
    """Return why the comparisons with PyTorch cannot be run here, or None.

    Raises:
        ToolchainMissing: A package is missing and the comparisons are required.
        CheckFailed: The checkpoint is another one, or is missing and required.
    """
    missing = [p for p in ("torch", "onnxruntime") if find_spec(p) is None]
    if missing and required:
        raise ToolchainMissing("the comparison with PyTorch", missing[0], "torch")
    if missing:
        return f"`{missing[0]}` is not installed"
    expected = bundle.manifest["checkpoint"]
    if checkpoint is not None and checkpoint.sha256 != expected["sha256"]:
        raise CheckFailed(
            f"`{checkpoint.path}` is not the checkpoint this bundle was exported from",
            hint=f"use `{expected['file_name']}` with sha256 {expected['sha256']}",
        )
    if checkpoint is None:
        reason = f"the checkpoint `{expected['file_name']}` is not here"
        if required:
            raise CheckFailed(
                reason, hint="give it with --checkpoint, or run `effsam fetch` for an official one"
            )
        return reason
    return None


def run_golden(bundle: Bundle, vectors: Golden) -> tuple[GoldenResult, ...]:
    """Run the bundle's graphs on every golden prompt and compare the masks and scores."""
    import numpy as np

    from effsam_export.bundle import read
    from effsam_export.imaging.images import upscale_masks
    from effsam_export.inference import runner
    from effsam_export.parity.metrics import mask_iou

    model = bundle.model
    if model.finds_instances:
        return _run_golden_instances(bundle, vectors)
    decoder = read.open_session(bundle, "decoder")
    embedded = runner.embed(model, read.open_session(bundle, "encoder"), vectors.image)
    results = []
    for case in vectors.cases:
        outputs = decoder.run(runner.decoder_feeds(model, embedded, case.prompt))
        masks = (
            upscale_masks(outputs["low_res_masks"][0], embedded.frame, model.masks)
            > model.masks.threshold
        )
        results.append(
            GoldenResult(
                case=case.name,
                mask_iou=min(mask_iou(case.masks[i], masks[i]) for i in case.answers),
                score_error=float(np.abs(outputs[model.masks.score][0] - case.scores).max()),
            )
        )
    return tuple(results)


def _run_golden_instances(bundle: Bundle, vectors: Golden) -> tuple[GoldenResult, ...]:
    """Do the same for a model that detects instances, with one mask for each prompt."""
    from effsam_export.bundle import read
    from effsam_export.inference import runner
    from effsam_export.parity.metrics import mask_iou

    model = bundle.model
    segmenter = read.open_session(bundle, "segmenter")
    detections = runner.find_instances(model, segmenter, vectors.image)
    results = []
    for case in vectors.cases:
        selected = runner.select_instance(model, detections, case.prompt)
        results.append(
            GoldenResult(
                case=case.name,
                mask_iou=mask_iou(case.masks[0], selected.masks[0]),
                score_error=abs(float(selected.scores[0] - case.scores[0])),
            )
        )
    return tuple(results)


def golden_failures(results: tuple[GoldenResult, ...], vectors: Golden) -> list[str]:
    """Return a sentence for each value that misses the bundle's tolerances, NaN included."""
    failures = []
    for r in results:
        if not r.mask_iou >= vectors.mask_iou:
            failures.append(
                f"golden {r.case}: mask IoU {r.mask_iou:.6f}, want {vectors.mask_iou:g}"
            )
        if not r.score_error <= vectors.score_error:
            failures.append(
                f"golden {r.case}: score off by {r.score_error:.2e}, "
                f"want at most {vectors.score_error:g}"
            )
    return failures


def run_comparisons(
    bundle: Bundle,
    checkpoint: Checkpoint,
    parity_file: Path | None,
    on_progress: OnProgress,
) -> ParityReport:
    """Repeat the comparisons of the export on the bundle's files, with the bundle's gates."""
    from effsam_export.backends.onnx.backend import open_onnx
    from effsam_export.bundle import read
    from effsam_export.parity.check import check
    from effsam_export.parity.comparison import Sides
    from effsam_export.parity.evaluation_set import load_evaluation_set
    from effsam_export.spec.targets import Gates
    from effsam_export.weights import checkpoint as loading

    sides = Sides(
        module=loading.load(bundle.model, checkpoint),
        sources={c: open_onnx(bundle.source(c)) for c in bundle.components},
        artifacts={c: read.open_session(bundle, c) for c in bundle.components},
        simulator=bundle.simulator,
    )
    return check(
        bundle.model,
        sides,
        load_evaluation_set(bundle.model, parity_file),
        target=bundle.manifest["target"]["name"],
        precision=bundle.manifest["precision"]["requested"],
        gates=Gates(**bundle.manifest["gates"]),
        on_progress=on_progress,
    ).report
