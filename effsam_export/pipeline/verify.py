"""Check a bundle: its files, its contract, its golden vectors, and the comparisons with PyTorch."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from effsam_export.errors import CheckFailed, EffsamError, ToolchainMissing
from effsam_export.pipeline import verify_contract, verify_golden, verify_rules
from effsam_export.util.progress import ignore_event, stage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from effsam_export.bundle.golden import Golden
    from effsam_export.bundle.read import Bundle
    from effsam_export.parity.results import ParityReport
    from effsam_export.pipeline.verify_contract import Contract
    from effsam_export.pipeline.verify_golden import GoldenResult
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.stages import Checkpoint
    from effsam_export.util.progress import OnEvent, OnProgress

LOG = logging.getLogger(__name__)
Level = Literal["golden", "full"]
Verdict = Literal["passed", "gates unproved", "failed"]


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
        unproved: `gates`, `checkpoint`, `texts` or `evaluated` -> why nothing here proves what the
            bundle says of them.
    """

    golden: tuple[GoldenResult, ...]
    report: ParityReport | None
    not_run: str | None
    failures: tuple[str, ...]
    placement: tuple[str, ...] = ()
    unproved: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """True if something was checked and nothing failed."""
        return not self.failures and bool(self.golden or self.report)

    @property
    def verdict(self) -> Verdict:
        """`gates unproved`: nothing failed, but nothing here proves the gates either."""
        if not self.passed:
            return "failed"
        return "gates unproved" if "gates" in self.unproved else "passed"


def verify(
    path: Path,
    *,
    checkpoint: Checkpoint | None = None,
    level: Level | None = None,
    parity_file: Path | None = None,
    key: Path | None = None,
    target_file: str | None = None,
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
        target_file: TOML file of the bundle's target, which has the gates, for a target that does
            not ship; or a target's name.
        on_event: Called with each stage event.

    Raises:
        BundleError: The path is not a bundle, or its manifest is broken.
        CheckFailed: `level` is `full` and the checkpoint is missing, or it is another one.
        ToolchainMissing: The runtime is missing, or PyTorch is and `level` is `full`.
        UsageError: The target file has faults or does not support the bundle's precision.
    """
    from effsam_export.bundle import read, signature

    bundle = read.read(path)
    with stage("files", on_event) as running:
        failures = list(read.integrity(bundle))
        if key is not None and (fault := signature.problem(path, key)):
            failures.append(fault)
        running.detail = f"{len(bundle.manifest['files'])} files"
        for entry in bundle.manifest["files"]:
            LOG.debug("%s: %d bytes, sha256 %s", entry["path"], entry["size"], entry["sha256"])
        running.failed = bool(failures)
    if failures:
        # Files whose hashes differ from the manifest are not opened.
        return Verification(
            golden=(), report=None, not_run="the files are broken", failures=tuple(failures)
        )
    LOG.debug("runtime of the bundle: %s", bundle.manifest.get("runtime"))
    with stage("contract", on_event) as running:
        contract = verify_contract.check(bundle, target_file)
        failures += contract.failures
        running.detail = f"{len(contract.sessions)} graphs"
        running.failed = bool(failures)
    results: tuple[GoldenResult, ...] = ()
    if contract.model is not None and contract.vectors is not None:
        with stage("golden vectors", on_event) as running:
            results, missed = run_golden(contract.model, contract, contract.vectors)
            failures += missed
            running.detail = golden_summary(results)
            running.failed = bool(missed)
    not_run = "only the golden vectors were requested" if level == "golden" else None
    if not_run is None:
        try:
            not_run = obstacle(bundle, checkpoint, required=level == "full")
        except EffsamError as error:
            if not failures:
                raise
            failures.append(error.message)
            not_run = error.message
    if not_run is None and contract.failures:
        not_run = "the contract is broken"
    report = None
    if not_run is None and checkpoint is not None:
        with stage("comparisons", on_event) as running:
            report = run_comparisons(bundle, contract, checkpoint, parity_file, running.on_progress)
            failures += report.failures
            for note in report.notes:
                running.note(note)
            running.detail = f"{len(report.comparisons)} comparisons, {len(report.cases)} prompts"
            running.failed = not report.passed
    return Verification(
        golden=results,
        report=report,
        not_run=not_run,
        failures=tuple(failures),
        placement=() if contract.failures else placement(bundle),
        unproved=unproved(bundle, contract, report, not_run),
    )


def run_golden(
    model: ModelSpec, contract: Contract, vectors: Golden
) -> tuple[tuple[GoldenResult, ...], list[str]]:
    """Return the results of the golden prompts, and a sentence for each that misses a gate."""
    try:
        results = verify_golden.run(model, contract.sessions, vectors)
    except EffsamError as error:
        return (), [error.message]
    return results, verify_golden.result_failures(results, contract.gates)


def golden_summary(results: tuple[GoldenResult, ...]) -> str:
    """Return the results of the golden prompts in a few words."""
    ious = [r.mask_iou for r in results if r.mask_iou is not None]
    left_out = sum(r.not_compared for r in results)
    parts = [
        f"{len(results)} prompts",
        *([f"min mask IoU {min(ious):.4f}"] if ious else []),
        *([f"{left_out} masks not compared: PyTorch is not confident of them"] if left_out else []),
    ]
    return ", ".join(parts)


def unproved(
    bundle: Bundle, contract: Contract, report: ParityReport | None, not_run: str | None
) -> dict[str, str]:
    """Return what the bundle states and nothing here proves, with the reason."""
    found = {}
    if contract.gates_unproved:
        found["gates"] = contract.gates_unproved
    elif bundle.manifest["precision"]["requested"] == "bf16" and bundle.simulator:
        found["gates"] = f"{bundle.simulator} computed the masks; run this on a CPU with BF16"
    if report is None or not report.passed:
        found["checkpoint"] = not_run or "the comparisons with PyTorch failed"
    if not verify_rules.texts_are_comparable(bundle):
        version = bundle.manifest["tools"].get("effsam-export", "unknown")
        found["texts"] = f"another effsam-export wrote them, version {version}"
    if "evaluated" in bundle.manifest:
        found["evaluated"] = "`effsam eval` measures it again"
    return found


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
    if checkpoint is not None:
        for option, given, wanted in (
            ("--base", checkpoint.base, expected.get("base_sha256")),
            ("--lora", checkpoint.lora, expected.get("lora", {}).get("sha256")),
        ):
            if given is None and wanted is not None:
                reason = f"the file that the export took as {option} is not here"
                if required:
                    raise CheckFailed(reason, hint=f"give it with {option}")
                return reason
            if given is not None and given.sha256 != wanted:
                raise CheckFailed(
                    f"`{given.path}` is not what this bundle was exported with as {option}",
                    hint=f"use the one with sha256 {wanted}" if wanted else f"leave out {option}",
                )
    if checkpoint is None:
        reason = f"the checkpoint `{expected['file_name']}` is not here"
        if required:
            raise CheckFailed(
                reason, hint="give it with --checkpoint, or run `effsam fetch` for an official one"
            )
        return reason
    return None


def run_comparisons(
    bundle: Bundle,
    contract: Contract,
    checkpoint: Checkpoint,
    parity_file: Path | None,
    on_progress: OnProgress,
) -> ParityReport:
    """Repeat the comparisons of the export on the bundle's files, with the gates it is held to.

    Raises:
        CheckFailed: The checkpoint has other weights than the manifest says.
    """
    from effsam_export.backends.onnx.backend import open_onnx
    from effsam_export.parity.check import check
    from effsam_export.parity.comparison import Sides
    from effsam_export.parity.evaluation_set import load_evaluation_set
    from effsam_export.weights import checkpoint as loading

    loaded = loading.load_with_facts(bundle.model, checkpoint)
    stated = bundle.manifest["checkpoint"].get("weights_sha256", loaded.facts.weights_sha256)
    if stated != loaded.facts.weights_sha256:
        raise CheckFailed(
            f"`checkpoint.weights_sha256` is {stated}, want {loaded.facts.weights_sha256} "
            f"(the weights in `{checkpoint.path.name}`)"
        )
    sides = Sides(
        module=loaded.module,
        sources={c: open_onnx(bundle.source(c)) for c in bundle.components},
        artifacts=contract.sessions,
        simulator=bundle.simulator,
    )
    return check(
        bundle.model,
        sides,
        load_evaluation_set(bundle.model, parity_file),
        target=bundle.manifest["target"]["name"],
        precision=bundle.manifest["precision"]["requested"],
        gates=contract.gates,
        on_progress=on_progress,
    ).report
