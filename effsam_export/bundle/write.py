"""Complete a staging directory to a bundle; the manifest is written last."""

from __future__ import annotations

import filecmp
import json
import math
import platform
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effsam_export import layouts
from effsam_export.bundle import bom, golden_write
from effsam_export.bundle.bom import BOM
from effsam_export.bundle.manifest import MANIFEST, Exported, compose, validate
from effsam_export.bundle.readme import readme_text
from effsam_export.util.files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.calibration.samples import Calibration
    from effsam_export.parity.check import ParityResult
    from effsam_export.parity.results import ParityReport
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.stages import Checkpoint
    from effsam_export.spec.targets import TargetProfile

LICENSES = Path(__file__).resolve().parent.parent / "licenses"
ROLES = {
    # First part of a file's path -> role; every other file is an artefact.
    "source": "source",
    "golden": "golden",
    "parity.json": "parity",
    "report.html": "report",
    "licenses": "licence",
    "README.md": "readme",
    BOM: "bom",
    "attestations": "attestation",
    "code": "code",
}
ENGINE_REASON = "TensorRT's compiler times its choices, so two builds can give different engines"
TIMES_REASON = "holds latencies that were measured during the export"


def write(
    directory: Path,
    *,
    model: ModelSpec,
    target: TargetProfile,
    checkpoint: Checkpoint,
    facts: Mapping[str, Any],
    exported: list[Exported],
    parity: ParityResult,
    html: str,
    versions: Mapping[str, str],
    calibration: Calibration | None = None,
    int8_search: Mapping[str, Any] | None = None,
    timed: bool = False,
) -> dict[str, Any]:
    """Write all files of a bundle but the graphs, and return the manifest.

    Args:
        directory: Holds the artefacts, and in `source/` the ONNX they were converted from.
        model: The exported model.
        target: The target of the export.
        checkpoint: The exported weights.
        facts: What was read from their file, for the manifest.
        exported: The components.
        parity: A parity check that passed.
        html: The report page.
        versions: Package -> version of the tools of the export.
        calibration: The calibration of an INT8 export.
        int8_search: How its recipe was found; None if not by a search.
        timed: Whether the report page holds latencies.
    """
    write_json(directory / "parity.json", parity_document(parity.report))
    (directory / "report.html").write_text(html, "utf-8")
    licences = directory / "licenses"
    licences.mkdir()
    text = (LICENSES / model.licence.text_file).read_text("utf-8")
    (licences / model.licence.text_file).write_text(text, "utf-8")
    if target.layout is not None:
        for name, content in layouts.load(target.layout).files(model, (target.precision,)).items():
            (directory / name).write_text(content, "utf-8", newline="\n")
    golden = None
    if parity.report.cases:
        golden = "golden/golden.json"
        vectors = golden_write.document(directory / "golden", model, target, parity)
        write_json(directory / golden, vectors)
    manifest = compose(
        model=model,
        target=target,
        checkpoint=checkpoint,
        facts=facts,
        exported=exported,
        report=parity.report,
        versions=versions,
        files=[],
        golden=golden,
        directory=directory,
        calibration=calibration,
        int8_search=int8_search,
    )
    for component in manifest["components"]:
        _share_source(directory, component)
    (directory / "README.md").write_text(readme_text(manifest), "utf-8")
    reasons = nondeterministic_files(manifest, timed=timed)
    if reasons:
        manifest["nondeterministic_files"] = [
            {"file": f, "reason": r} for f, r in sorted(reasons.items())
        ]
    manifest["files"] = list_files(directory)
    (directory / BOM).write_text(bom.text(manifest), "utf-8")
    manifest["files"] = list_files(directory)
    validate(manifest)
    write_json(directory / MANIFEST, manifest)
    return manifest


def nondeterministic_files(manifest: Mapping[str, Any], *, timed: bool) -> dict[str, str]:
    """Return path -> reason of the files that differ in a second export from equal inputs.

    Args:
        manifest: A manifest with its components.
        timed: Whether the report page holds latencies.
    """
    found = {"report.html": TIMES_REASON} if timed else {}
    engines = [f for c in manifest["components"] for f in c["files"] if f.endswith(".engine")]
    if engines:
        found |= {BOM: "holds the hash of the engines", **dict.fromkeys(engines, ENGINE_REASON)}
    return found


def write_json(path: Path, document: Any) -> None:  # noqa: ANN401 - any JSON
    """Write a document as the UTF-8 text of `json_text`."""
    path.write_text(json_text(document), "utf-8")


def json_text(document: Any) -> str:  # noqa: ANN401 - any JSON
    """Return JSON with sorted keys, so that equal documents are equal texts."""
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return f"{text}\n"


def parity_document(report: ParityReport) -> dict[str, Any]:
    """Return a report as a JSON document; NaN and infinity become the strings "nan" and "inf"."""
    decisions = [
        {"case": d.case.case, "masks": list(d.masks), "ranking": d.ranking}
        for d in report.decisions
    ]
    document: dict[str, Any] = _plain(
        {
            **asdict(report),
            "passed": report.passed,
            "decided_by": report.decided_by,
            "decisions": decisions,
        }
    )
    return document


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _share_source(directory: Path, component: dict[str, Any]) -> None:
    """Remove the source ONNX if the artefact is the same file (the `onnx` target in FP32)."""
    source, artifact = directory / component["source"], directory / component["files"][0]
    if source.suffix == artifact.suffix and filecmp.cmp(source, artifact, shallow=False):
        source.unlink()
        # External weights of the source are not needed either.
        source.with_name(f"{source.name}.data").unlink(missing_ok=True)
        component["source"] = component["files"][0]
        if not any(source.parent.iterdir()):
            source.parent.rmdir()


def list_files(directory: Path) -> list[dict[str, Any]]:
    """Return path, sha256, size and role of every file, sorted by path."""
    entries = []
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        relative = path.relative_to(directory)
        entries.append(
            {
                "path": relative.as_posix(),
                "sha256": sha256_of(path),
                "size": path.stat().st_size,
                "role": ROLES.get(relative.parts[0], "artifact"),
            }
        )
    return entries


def versions(exported: list[Exported]) -> dict[str, str]:
    """Return the versions of Python and of every package that took part in an export."""
    found = {name: metadata.version(name) for name in TRACING_TOOLS}
    for entry in exported:
        found.update(entry.artifact.versions)
    return {"python": platform.python_version(), **found}


TRACING_TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow")
