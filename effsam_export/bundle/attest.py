"""Attest a device: add the result of its self-test to a bundle.

The device sends the masks and scores of the golden prompts. They are compared with the bundle's
golden vectors here, as in `effsam verify`. A result of another bundle or runtime, or with a mask
missing, is refused. A signature beside the result proves who made it; the attestation records
whether there was one.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from effsam_export.bundle import read, staging, write
from effsam_export.bundle.golden import read_golden
from effsam_export.bundle.manifest import MANIFEST, validate
from effsam_export.bundle.manifest import load as load_manifest
from effsam_export.bundle.read import SIGNATURE
from effsam_export.errors import BundleError, CheckFailed, UsageError, joined
from effsam_export.imaging import rle
from effsam_export.util import json_text
from effsam_export.util.files import sha256_of
from effsam_export.util.reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from effsam_export.bundle.golden import Golden, GoldenCase

FOLDER = "attestations"
ON_DEVICE = "verified on device"
"""State of a bundle that was simulated when exported, and passed on a device since."""
MAX_RESULT_BYTES = 64_000_000
"""A mask's run lengths take a few hundred thousand bytes."""
TEXT_KEYS = ("manifest_sha256", "language", "runtime", "version", "device")
"""Keys of a result whose values are non-empty strings."""
MAX_TEXT = 200
"""Characters of such a string."""


@dataclass(frozen=True, kw_only=True)
class Attestation:
    """A device that passed the self-test.

    Attributes:
        device, runtime, version, language: As the device reported them.
        signed: Whether the result was signed with the given key.
        min_iou, score_error: Minimum IoU and maximum score error of the compared masks.
        manifest_sha256: Hash of the manifest on the device.
        not_compared: Number of masks that were not compared: PyTorch is not confident of them.
    """

    device: str
    runtime: str
    version: str
    language: str
    signed: bool
    min_iou: float
    score_error: float
    manifest_sha256: str
    not_compared: int = 0


def attest(path: Path, result: Path, key: Path | None = None) -> Attestation:
    """Check a device's result, and add it to the bundle.

    The manifest changes, so a signature of the bundle is removed.

    Args:
        path: Directory of the bundle.
        result: File written by the self-test with `--json`.
        key: Public key that must have signed the result, in `<result>.sig`.

    Raises:
        BundleError: The bundle is not intact, or has no golden vectors.
        UsageError: The result cannot be read.
        CheckFailed: The result is refused; the message names every problem.
    """
    bundle = read.read(path)
    broken = read.integrity(bundle)
    if broken:
        raise BundleError(f"bundle `{path}` is not intact: {joined(broken)}")
    vectors = read_golden(bundle)
    if vectors is None:
        raise BundleError(f"bundle `{path}` has no golden vectors: it holds one component")
    content = content_of(result)
    document = load(content, result)
    problems = origin_problems(document, bundle, sha256_of(path / MANIFEST))
    if key is not None and (fault := signature_problem(content, result, key)):
        problems.append(fault)
    if key is None and (signed := signed_entry(document, bundle)):
        problems.append(
            f"`{signed['device']}` has a signed result for {signed['runtime']}, "
            "which only a signed one replaces"
        )
    min_iou, score_error = 1.0, 0.0
    if not problems:
        failures, min_iou, score_error = compare(document["cases"], vectors)
        problems += failures
    if problems:
        raise CheckFailed(f"`{result}` is refused: {joined(problems)}")
    attestation = Attestation(
        device=document["device"],
        runtime=document["runtime"],
        version=document["version"],
        language=document["language"],
        signed=key is not None,
        min_iou=min_iou,
        score_error=score_error,
        manifest_sha256=document["manifest_sha256"],
        not_compared=sum(c.not_compared for c in vectors.cases),
    )
    add(bundle, attestation, content)
    return attestation


def content_of(path: Path) -> bytes:
    """Return the bytes of a result: what is checked is what is added.

    Raises:
        UsageError: The file cannot be read, or is too large.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_RESULT_BYTES + 1)
    except OSError as error:
        raise UsageError(f"`{path}` cannot be read: {reason_of(error)}") from error
    if len(content) > MAX_RESULT_BYTES:
        raise UsageError(
            f"`{path}` has more than {MAX_RESULT_BYTES} bytes, the most of a self-test's result"
        )
    return content


def load(content: bytes, path: Path) -> dict[str, Any]:
    """Return the JSON document of a result, with all keys present and of the right type.

    Args:
        content: Bytes of the file.
        path: The file, for messages.

    Raises:
        UsageError: It is not a result.
    """
    try:
        document = json_text.loads(
            content, max_bytes=MAX_RESULT_BYTES, max_values=2 * json_text.MAX_VALUES
        )
    except ValueError as error:
        raise UsageError(f"`{path}` cannot be read as JSON: {error}") from error
    is_result = (
        isinstance(document, dict)
        and all(_is_text(document.get(k)) for k in TEXT_KEYS)
        and isinstance(document.get("cases"), list)
        and all(isinstance(c, dict) and _is_text(c.get("name")) for c in document["cases"])
    )
    if not is_result:
        raise UsageError(
            f"`{path}` is not the result of a self-test",
            hint=f"it needs the strings {', '.join(TEXT_KEYS)}, of 1 to {MAX_TEXT} printable "
            "characters, and a list `cases` of prompts with a name",
        )
    checked: dict[str, Any] = document
    return checked


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable()


def origin_problems(document: Mapping[str, Any], bundle: read.Bundle, sha256: str) -> list[str]:
    """Return a sentence for each sign that a result does not belong to a bundle.

    Args:
        document: The result.
        bundle: The bundle on disk.
        sha256: Hash of its manifest.
    """
    problems = []
    # An attestation or an evaluation changes the manifest, but nothing that a device runs.
    earlier = {
        entry["manifest_sha256"]
        for key in ("attestations", "evaluated")
        for entry in bundle.manifest.get(key, [])
    }
    if document["manifest_sha256"] not in {sha256, *earlier}:
        problems.append(
            f"it is for the manifest {document['manifest_sha256'][:12]}, "
            f"this bundle has {sha256[:12]}"
        )
    if document.get("passed") is not True:
        problems.append("the device reports that the self-test failed")
    expected = bundle.manifest.get("runtime", {}).get("name")
    if expected is not None and not same_runtime(document["runtime"], expected):
        problems.append(f"it ran in {document['runtime']}, the bundle is for {expected}")
    return problems


def signed_entry(document: Mapping[str, Any], bundle: read.Bundle) -> dict[str, Any] | None:
    """Return the bundle's signed attestation of a result's device and runtime, or None."""
    entries: list[dict[str, Any]] = bundle.manifest.get("attestations", [])
    return next((a for a in entries if a["signed"] and _is_same(a, document)), None)


def _is_same(entry: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(entry[key] == other[key] for key in ("device", "runtime"))


def same_runtime(reported: str, expected: str) -> bool:
    """Return whether two names mean one runtime; ONNX Runtime has a package per language."""
    plain = re.sub(r"[^a-z]", "", reported.lower())
    return plain.removesuffix("web").removesuffix("node") == re.sub(r"[^a-z]", "", expected.lower())


def compare(cases: list[dict[str, Any]], vectors: Golden) -> tuple[list[str], float, float]:
    """Compare a device's masks and scores with the golden vectors.

    Returns:
        A sentence for each failure, the minimum mask IoU, and the maximum score error.
    """
    given = {c.get("name"): c for c in cases}
    problems = [f"prompt `{c.name}` is missing" for c in vectors.cases if c.name not in given]
    if len(given) != len(cases) or len(cases) > len(vectors.cases):
        problems.append("it has a prompt that the bundle lacks, or one prompt twice")
    min_iou, max_error = 1.0, 0.0
    for case in vectors.cases:
        if case.name not in given:
            continue
        try:
            iou, error = compare_case(given[case.name], case)
        except (BundleError, KeyError, TypeError, ValueError) as fault:
            problems.append(f"prompt `{case.name}`: {fault}")
            continue
        if not iou >= vectors.mask_iou:
            problems.append(f"prompt `{case.name}`: mask IoU {iou:.6f}, want {vectors.mask_iou:g}")
        if not error <= vectors.score_error:
            problems.append(
                f"prompt `{case.name}`: score error {error:.2e}, want {vectors.score_error:g}"
            )
        min_iou, max_error = min(min_iou, iou), max(max_error, error)
    return problems, min_iou, max_error


def compare_case(answer: Mapping[str, Any], case: GoldenCase) -> tuple[float, float]:
    """Return the minimum IoU and the maximum score error of the compared masks of a prompt.

    Without any they are 1 and 0.

    Raises:
        ValueError: The number or the size of the masks differs.
    """
    from effsam_export.parity.metrics import mask_iou

    expected = case.masks
    given, scores = answer["masks"], np.asarray(answer["scores"], dtype=np.float64)
    if len(given) != len(expected) or scores.shape != case.scores.shape:
        raise ValueError(f"{len(given)} masks and {scores.size} scores, want {len(expected)}")
    height, width = expected.shape[1:]
    for mask in given:
        rle.check(mask, (height, width))
    ious = [mask_iou(expected[i], rle.decode(given[i])) for i in case.compared]
    return min(ious, default=1.0), case.score_error(scores)


def signature_problem(content: bytes, result: Path, key: Path) -> str | None:
    """Return why the bytes of a result are not signed with a key; None if they are."""
    from effsam_export.bundle import signature

    return signature.fault(content, result.name, result.with_name(f"{result.name}.sig"), key)


def file_name(attestation: Attestation, content: bytes) -> str:
    """Return the name of a result's file: readable where the device has an ASCII name.

    Two results never share a name, because it holds the hash of the bytes.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", f"{attestation.device} {attestation.runtime}".lower())
    return f"{slug[:60].strip('-')}-{hashlib.sha256(content).hexdigest()[:16]}.json".lstrip("-")


def add(bundle: read.Bundle, attestation: Attestation, content: bytes) -> None:
    """Write an attestation into a bundle; it replaces those of the same device and runtime.

    Args:
        bundle: The bundle.
        attestation: The checked result.
        content: Bytes of the result.
    """
    before = (bundle.path / MANIFEST).read_bytes()

    def is_unchanged(path: Path) -> bool:
        return staging.is_bundle(path) and (path / MANIFEST).read_bytes() == before

    with staging.staged(bundle.path, replaces=is_unchanged) as work:
        shutil.copytree(bundle.path, work, dirs_exist_ok=True)
        (work / SIGNATURE).unlink(missing_ok=True)
        folder = work / FOLDER
        folder.mkdir(exist_ok=True)
        file = folder / file_name(attestation, content)
        manifest = load_manifest((work / MANIFEST).read_bytes(), str(work / MANIFEST))
        entry = {
            "device": attestation.device,
            "runtime": attestation.runtime,
            "version": attestation.version,
            "language": attestation.language,
            "signed": attestation.signed,
            "min_mask_iou": attestation.min_iou,
            "max_score_error": attestation.score_error,
            "manifest_sha256": attestation.manifest_sha256,
            "file": file.relative_to(work).as_posix(),
        }
        # The manifest stays in the version it was written in.
        key = "attested" if bundle.manifest_version == 3 else "attestations"
        entries = manifest.get(key, [])
        others = [a for a in entries if not _is_same(a, entry) and a["file"] != entry["file"]]
        for replaced in {a["file"] for a in entries} - {a["file"] for a in others}:
            (work / replaced).unlink(missing_ok=True)
        file.write_bytes(content)
        manifest[key] = sorted([*others, entry], key=lambda a: a["file"])
        if manifest["state"] == "simulated":
            manifest["state"] = ON_DEVICE
        manifest["files"] = [e for e in write.list_files(work) if e["path"] != MANIFEST]
        validate(manifest)
        write.write_json(work / MANIFEST, manifest)
