"""The manifest of a bundle: JSON with a published schema.

It holds everything an app needs to run the graphs without this package: tensors, resizing and
padding, prompts and their coordinates, the choice of the mask, and the threshold.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effsam_export._version import __version__
from effsam_export.bundle import consistency, contract, int8, runtime, v3
from effsam_export.errors import BundleError, shown
from effsam_export.util import json_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from effsam_export.calibration.samples import Calibration
    from effsam_export.parity.results import ParityReport
    from effsam_export.spec.model import KeepFp32, ModelSpec
    from effsam_export.spec.stages import Artifact, Checkpoint, Graph
    from effsam_export.spec.targets import TargetProfile

MANIFEST = "manifest.json"
MANIFEST_VERSION = 4
"""Layout of a manifest that is written. New optional keys do not change it."""
READABLE_VERSIONS = (3, MANIFEST_VERSION)
CONTRACT_VERSION = 3
"""Calling rules of the graphs; another number needs other code in the app."""
MAX_MANIFEST_BYTES = 16_000_000
"""A manifest is read before its hash is known; real ones have about 20 000 bytes."""
MAX_MANIFEST_VALUES = 20_000
"""Real ones have a few hundred. Checking a schema takes 70 us for each value that breaks it."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One component of an export: its traced graph and the artefact made from it."""

    graph: Graph
    artifact: Artifact


def schema(version: int = MANIFEST_VERSION) -> dict[str, Any]:
    """Return the published JSON Schema of a manifest version."""
    folder = Path(__file__).resolve().parent.parent / "schemas"
    loaded: dict[str, Any] = json.loads(
        (folder / f"manifest-v{version}.schema.json").read_text("utf-8")
    )
    return loaded


def load(content: bytes, name: str) -> dict[str, Any]:
    """Return a manifest as it was written, in any readable version.

    Args:
        content: Bytes of the file.
        name: Path of the file, for messages.

    Raises:
        BundleError: It is not JSON, is too large, has an unreadable version, breaks its schema or
            contradicts itself.
    """
    try:
        manifest = json_text.loads(
            content, max_bytes=MAX_MANIFEST_BYTES, max_values=MAX_MANIFEST_VALUES
        )
    except ValueError as error:
        raise BundleError(f"`{name}` cannot be read as JSON: {error}") from error
    validate(manifest)
    document: dict[str, Any] = manifest
    return document


def parse(content: bytes, name: str) -> dict[str, Any]:
    """Return a manifest in the current version, whatever readable version it was written in.

    Args:
        content: Bytes of the file.
        name: Path of the file, for messages.

    Raises:
        BundleError: As `load`.
    """
    return current(load(content, name))


def current(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a valid manifest in the current version."""
    return v3.upgraded(manifest) if manifest["manifest_version"] == 3 else manifest


def validate(manifest: Any) -> None:  # noqa: ANN401 - any JSON a stranger may have written
    """Check a parsed manifest: the schema of its version, then `consistency`.

    Raises:
        BundleError: Its version is not readable, it breaks the schema, or it contradicts itself:
            the first five errors.
    """
    import jsonschema_rs

    version = manifest.get("manifest_version") if isinstance(manifest, dict) else None
    if isinstance(version, int) and version not in READABLE_VERSIONS:
        readable = " and ".join(str(v) for v in READABLE_VERSIONS)
        raise BundleError(
            f"the bundle's manifest is version {version}, this effsam reads {readable}",
            hint="upgrade effsam-export" if version > MANIFEST_VERSION else "export it again",
        )
    # A document without a version is held against the current schema.
    followed = next((v for v in READABLE_VERSIONS if v == version), MANIFEST_VERSION)
    try:
        faults = list(jsonschema_rs.Draft202012Validator(schema(followed)).iter_errors(manifest))
    except ValueError as error:
        # Text that is not Unicode, or lists nested too deeply.
        raise BundleError(f"`{MANIFEST}` cannot be checked: {error}") from error
    if faults:
        found = sorted((_json_path(f.instance_path), f.message) for f in faults)
        lines = "; ".join(f"{shown(path)}: {shown(message)}" for path, message in found[:5])
        raise BundleError(f"`{MANIFEST}` does not follow its schema: {lines}")
    if problems := consistency.problems(current(manifest)):
        raise BundleError(f"`{MANIFEST}` contradicts itself: {'; '.join(problems[:5])}")


def _json_path(keys: Iterable[str | int]) -> str:
    """Return the JSON path of a value, as in `$.files[0].path`."""
    return "$" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)


def compose(
    *,
    model: ModelSpec,
    target: TargetProfile,
    checkpoint: Checkpoint,
    facts: Mapping[str, Any],
    exported: list[Exported],
    report: ParityReport,
    versions: Mapping[str, str],
    files: list[dict[str, Any]],
    golden: str | None,
    directory: Path,
    calibration: Calibration | None = None,
    int8_search: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the manifest of an export.

    Args:
        model: The exported model.
        target: The target of the export.
        checkpoint: The exported weights.
        facts: What was read from their file: key, prefix, `weights_sha256`, ...
        exported: The components.
        report: The parity check.
        versions: Package -> version of the tools of the export.
        files: Entries of all files but the manifest.
        golden: Path of the golden vectors in the bundle; None if there are none.
        directory: Directory of the artefacts.
        calibration: The calibration of an INT8 export.
        int8_search: How its recipe was found; None if not by a search.
    """
    recipes = {
        e.artifact.component: e.graph.quantization.recipe for e in exported if e.graph.quantization
    }
    return {
        "manifest_version": MANIFEST_VERSION,
        "contract_version": CONTRACT_VERSION,
        "state": report.state,
        "simulator": report.simulator,
        "model": model_entry(model),
        "checkpoint": {
            "file_name": checkpoint.path.name,
            "sha256": checkpoint.sha256,
            "official": checkpoint.official,
            **facts,
        },
        "target": {
            "name": target.name,
            "backend": target.backend,
            "opset": target.opset,
            "options": dict(target.options),
            "profile_sha256": hashlib.sha256(target.source).hexdigest(),
            **({} if target.layout is None else {"layout": target.layout}),
        },
        "runtime": runtime.document(target, versions),
        "precision": {
            "requested": target.precision,
            "elements_by_dtype": {
                e.artifact.component: dict(e.artifact.tensors_by_dtype) for e in exported
            },
            **_executed(exported),
            "ops_by_type": {e.artifact.component: dict(e.artifact.ops) for e in exported},
            "keep_fp32": [
                _keep_fp32(k)
                for e in exported
                if target.precision not in ("fp32", "bf16")
                for k in e.graph.recipe
            ],
        },
        "components": [_component(e, directory) for e in exported],
        "preprocess": contract.preprocess(model),
        "prompts": contract.prompts(model),
        "masks": contract.masks(model),
        # Only INT8 has a gate for the mean IoU.
        "gates": {k: v for k, v in asdict(target.gates).items() if k != "mean_iou" or v},
        "parity": {"file": "parity.json", "passed": report.passed, **_parity_summary(report)},
        "golden": golden,
        "tools": {"effsam-export": __version__, **versions},
        "files": files,
        **(
            {}
            if calibration is None
            else {"int8": int8.document(recipes, calibration, int8_search)}
        ),
    }


def model_entry(model: ModelSpec) -> dict[str, Any]:
    """Return the manifest's `model` for a registered model."""
    licence = model.licence
    return {
        "name": model.name,
        "title": model.title,
        "paper": model.paper,
        "origin": model.origin,
        "options": dict(model.options),
        "licence": {
            "spdx": licence.spdx,
            "source": licence.source,
            "notice": licence.notice,
            "file": f"licenses/{licence.text_file}",
        },
    }


def _executed(exported: list[Exported]) -> dict[str, Any]:
    """Return what the compiled models run, of components whose files do not decide it."""
    found = {e.artifact.component: dict(e.artifact.executed) for e in exported}
    return {"executed": found} if any(found.values()) else {}


def _keep_fp32(rule: KeepFp32) -> dict[str, Any]:
    return {
        "component": rule.component,
        "modules": list(rule.modules),
        "ops": list(rule.ops),
        "reason": rule.reason,
        "source": rule.source,
        **({} if rule.recursive else {"recursive": False}),
    }


def _component(exported: Exported, directory: Path) -> dict[str, Any]:
    graph, artifact = exported.graph, exported.artifact
    return {
        "name": artifact.component,
        "files": [p.relative_to(directory).as_posix() for p in artifact.files],
        "source": f"source/{graph.path.name}",
        **contract.tensors(graph.component, artifact.options),
        "rewrites": list(graph.rewrites),
    }


def _parity_summary(report: ParityReport) -> dict[str, Any]:
    """Return the summary of a parity check; figures are None if nothing ran end to end."""
    decided_by = "all masks" if report.all_masks_decide else "confident masks"
    return {
        "min_mask_iou": report.min_iou,
        "mean_mask_iou": report.mean_iou,
        "max_score_error": report.score_error,
        "cases": len(report.cases),
        "confident_masks": report.confident_masks,
        "decided_by": decided_by,
    }
