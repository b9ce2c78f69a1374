"""Complete a staged directory to a bundle; the manifest goes in last."""

from __future__ import annotations

import filecmp
import json
import math
import platform
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from effsam_export.bundle import bom
from effsam_export.bundle.bom import BOM
from effsam_export.bundle.manifest import MANIFEST, Exported, compose, validate
from effsam_export.bundle.readme import integrator_readme
from effsam_export.imaging import rle
from effsam_export.util.files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.calibration.samples import Calibration
    from effsam_export.parity.check import ParityResult
    from effsam_export.parity.comparison import ExpectedImage
    from effsam_export.parity.results import ParityReport
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.stages import Checkpoint
    from effsam_export.spec.targets import TargetProfile
    from effsam_export.spec.tensors import Float32

LICENSES = Path(__file__).resolve().parent.parent / "licenses"
ROLES = {
    # First part of a file's path -> role; anything else at the top is an artefact.
    "source": "source",
    "golden": "golden",
    "parity.json": "parity",
    "report.html": "report",
    "licenses": "licence",
    "README.md": "readme",
    BOM: "bom",
    "attestations": "attestation",
}
ENGINES = "TensorRT's compiler chooses anew each time: of two decoders' engines the bytes differed"
"""Measured with TensorRT for RTX 1.7.1 on the tiny model; its encoder's were equal."""
TIMES = "holds the times of calls that were measured while the bundle was made"


def write(
    directory: Path,
    *,
    model: ModelSpec,
    target: TargetProfile,
    checkpoint: Checkpoint,
    exported: list[Exported],
    findings: ParityResult,
    html: str,
    versions: Mapping[str, str],
    calibration: Calibration | None = None,
    timed: bool = False,
) -> dict[str, Any]:
    """Add everything but the graphs, which are there already, and return the manifest.

    Args:
        directory: Holds the artefacts, and the ONNX they were lowered from in `source/`.
        model: What was exported.
        target: For what.
        checkpoint: From which weights.
        exported: The components.
        findings: A parity check that passed.
        html: The report page.
        versions: Package -> version of the tools that took part.
        calibration: What an INT8 export was calibrated on.
        timed: The report page holds times, which no second export will repeat.
    """
    write_json(directory / "parity.json", parity_document(findings.report))
    (directory / "report.html").write_text(html, "utf-8")
    licences = directory / "licenses"
    licences.mkdir()
    text = (LICENSES / model.licence.text_file).read_text("utf-8")
    (licences / model.licence.text_file).write_text(text, "utf-8")
    golden = None
    if findings.report.cases:
        golden = "golden/golden.json"
        _write_golden(directory / "golden", model, target, findings.expected[0])
    manifest = compose(
        model=model,
        target=target,
        checkpoint=checkpoint,
        exported=exported,
        report=findings.report,
        versions=versions,
        files=[],
        golden=golden,
        directory=directory,
        calibration=calibration,
    )
    for component in manifest["components"]:
        _share_source(directory, component)
    (directory / "README.md").write_text(integrator_readme(manifest), "utf-8")
    different = varying(manifest, timed=timed)
    if different:
        manifest["nondeterministic_files"] = [
            {"file": f, "reason": r} for f, r in sorted(different.items())
        ]
    manifest["files"] = list_files(directory)
    (directory / BOM).write_text(bom.text(manifest), "utf-8")
    manifest["files"] = list_files(directory)
    validate(manifest)
    write_json(directory / MANIFEST, manifest)
    return manifest


def varying(manifest: Mapping[str, Any], *, timed: bool) -> dict[str, str]:
    """Files that a second export from equal inputs does not repeat, and why.

    Args:
        manifest: With its components.
        timed: The report page holds times.
    """
    found = {"report.html": TIMES} if timed else {}
    engines = [f for c in manifest["components"] for f in c["files"] if f.endswith(".engine")]
    if engines:
        found |= {BOM: "holds the hash of the engines", **dict.fromkeys(engines, ENGINES)}
    return found


def write_json(path: Path, document: Any) -> None:  # noqa: ANN401 - any JSON
    """Write JSON with sorted keys, so that equal contents are equal bytes."""
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", "utf-8")


def parity_document(report: ParityReport) -> dict[str, Any]:
    """A report as JSON; NaN and infinity, which JSON lacks, become the strings "nan" and "inf"."""
    document: dict[str, Any] = _plain({**asdict(report), "passed": report.passed})
    return document


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _write_golden(
    directory: Path, model: ModelSpec, target: TargetProfile, expected: ExpectedImage
) -> None:
    """Photograph (PNG, so that every decoder gives the same pixels), prompts, masks and scores."""
    directory.mkdir()
    Image.fromarray(expected.image).save(directory / "image.png", optimize=True)
    cases = []
    for case in expected.cases:
        prompt, mask_file = case.prompt, None
        if prompt.mask_input is not None:
            mask_file = f"{case.name}.mask_input.npy"
            np.save(directory / mask_file, prompt.mask_input)
        answers = answers_of(model, case.scores)
        cases.append(
            {
                "name": case.name,
                "points": [[p.x, p.y, p.label] for p in prompt.points],
                "box": None if prompt.box is None else list(prompt.box),
                "mask_input": mask_file,
                "answers": answers,
                "masks": [rle.encode(m) for m in case.masks],
                "scores": [float(s) for s in case.scores],
            }
        )
    write_json(
        directory / "golden.json",
        {
            "image": "image.png",
            "frame": "original image pixels, x y",
            "masks": "per case, one uncompressed COCO RLE per mask of the decoder, in graph order",
            "tolerances": {
                "mask_iou": target.gates.mask_iou,
                "score_error": target.gates.score_error,
            },
            "cases": cases,
        },
    )


def answers_of(model: ModelSpec, scores: Float32) -> list[int]:
    """Indices of the masks a user is given: the single mask, and the best of the multimask set."""
    if model.finds_instances:
        return [0]
    return [*model.masks.single, max(model.masks.multimask, key=lambda i: float(scores[i]))]


def _share_source(directory: Path, component: dict[str, Any]) -> None:
    """Drop the source ONNX where the artefact is the same file (the `onnx` target in FP32)."""
    source, artifact = directory / component["source"], directory / component["files"][0]
    if source.suffix == artifact.suffix and filecmp.cmp(source, artifact, shallow=False):
        source.unlink()
        # Weights outside the file belong to it.
        source.with_name(f"{source.name}.data").unlink(missing_ok=True)
        component["source"] = component["files"][0]
        if not any(source.parent.iterdir()):
            source.parent.rmdir()


def list_files(directory: Path) -> list[dict[str, Any]]:
    """Path, sha256, size and role of every file, sorted by path."""
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
    """Version of Python and of every package that took part."""
    found = {name: metadata.version(name) for name in TRACING_TOOLS}
    for entry in exported:
        found.update(entry.artifact.versions)
    return {"python": platform.python_version(), **found}


TRACING_TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow")
