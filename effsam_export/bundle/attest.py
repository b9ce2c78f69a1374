"""A device's self-test raises a bundle from `simulated` to `verified` on that device.

The device sends the masks and scores that it found for the golden prompts, not a judgement: they
are judged here, against the bundle's own vectors and tolerances, as `effsam verify` does. A result
for another bundle, another runtime, or with a mask missing is refused. Who made the result, a
signature beside it tells; without one, the attestation says that nobody vouched for it.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from effsam_export.bundle import read, staging, write
from effsam_export.bundle.golden import read_golden
from effsam_export.bundle.manifest import MANIFEST, validate
from effsam_export.bundle.read import SIGNATURE
from effsam_export.errors import BundleError, CheckFailed, UsageError
from effsam_export.imaging import rle
from effsam_export.util.files import reason_of, sha256_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from effsam_export.bundle.golden import Golden, GoldenCase

FOLDER = "attestations"
ON_DEVICE = "verified on device"
"""State of a bundle that was judged by a simulator where it was made, and by a device since."""
LARGEST = 64_000_000
"""Bytes of a result; run lengths of some masks take a few hundred thousand."""
TEXTS = ("manifest_sha256", "language", "runtime", "version", "device")


@dataclass(frozen=True, kw_only=True)
class Attestation:
    """What a device was found to do.

    Attributes:
        device, runtime, version, language: As it says itself.
        signed: A key that was given vouches for it.
        min_iou, score_error: Least mask IoU of all answers, and largest error of a score.
        manifest_sha256: Of the manifest that the device had.
    """

    device: str
    runtime: str
    version: str
    language: str
    signed: bool
    min_iou: float
    score_error: float
    manifest_sha256: str


def attest(path: Path, result: Path, key: Path | None = None) -> Attestation:
    """Judge a device's result, and write the bundle anew with it.

    The manifest becomes another one: a signature that the bundle had is taken away.

    Args:
        path: A bundle's directory.
        result: What the self-test wrote with `--json`.
        key: A public key that has to have signed the result, in `<result>.sig`.

    Raises:
        BundleError: The bundle is not intact, or has no golden vectors.
        UsageError: The result cannot be read.
        CheckFailed: It is of another bundle or runtime, it misses a tolerance, or nobody with the
            key signed it.
    """
    bundle = read.read(path)
    broken = read.integrity(bundle)
    if broken:
        raise BundleError(f"bundle `{path}` is not intact: {'; '.join(broken)}")
    vectors = read_golden(bundle)
    if vectors is None:
        raise BundleError(f"bundle `{path}` has no golden vectors: it holds one component")
    document = load(result)
    problems = claims(document, bundle, sha256_of(path / MANIFEST))
    if key is not None and (fault := unsigned(result, key)):
        problems.append(fault)
    least, error = 1.0, 0.0
    if not problems:
        found, least, error = judged(document["cases"], vectors)
        problems += found
    if problems:
        raise CheckFailed(f"`{result}` is refused: {'; '.join(problems)}")
    found_by = Attestation(
        device=document["device"],
        runtime=document["runtime"],
        version=document["version"],
        language=document["language"],
        signed=key is not None,
        min_iou=least,
        score_error=error,
        manifest_sha256=document["manifest_sha256"],
    )
    rewritten(bundle, found_by, result)
    return found_by


def load(path: Path) -> dict[str, Any]:
    """A result as JSON; nothing in it is taken on trust."""
    try:
        if path.stat().st_size > LARGEST:
            raise UsageError(f"`{path}` has {path.stat().st_size} bytes: no self-test writes that")
        document = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"`{path}` cannot be read: {reason_of(error)}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"`{path}` is not JSON: {error}") from error
    right = (
        isinstance(document, dict)
        and all(isinstance(document.get(k), str) and document[k] for k in TEXTS)
        and isinstance(document.get("cases"), list)
        and all(isinstance(c, dict) for c in document["cases"])
    )
    if not right:
        raise UsageError(
            f"`{path}` is not the result of a self-test",
            hint=f"it wants texts {', '.join(TEXTS)}, and a list `cases`",
        )
    found: dict[str, Any] = document
    return found


def claims(document: Mapping[str, Any], bundle: read.Bundle, sha256: str) -> list[str]:
    """Where a result does not belong to this bundle."""
    problems = []
    # An attestation changes the manifest, and nothing that a device runs.
    earlier = {a["manifest_sha256"] for a in bundle.manifest.get("attestations", [])}
    if document["manifest_sha256"] not in {sha256, *earlier}:
        problems.append(
            f"it is of the manifest {document['manifest_sha256'][:12]}, this one is {sha256[:12]}"
        )
    if document.get("passed") is not True:
        problems.append("the device itself says that it failed")
    wanted = bundle.manifest.get("runtime", {}).get("name")
    if wanted is not None and not same_runtime(document["runtime"], wanted):
        problems.append(f"it ran in {document['runtime']}, the bundle is for {wanted}")
    return problems


def same_runtime(found: str, wanted: str) -> bool:
    """Whether two names mean one runtime: ONNX Runtime has a package for each language."""
    plain = re.sub(r"[^a-z]", "", found.lower())
    return plain.removesuffix("web").removesuffix("node") == re.sub(r"[^a-z]", "", wanted.lower())


def judged(cases: list[dict[str, Any]], vectors: Golden) -> tuple[list[str], float, float]:
    """What is wrong with a device's answers; their min mask IoU, and largest score error."""
    given = {c.get("name"): c for c in cases}
    problems = [f"prompt `{c.name}` is missing" for c in vectors.cases if c.name not in given]
    if len(given) != len(cases) or len(cases) > len(vectors.cases):
        problems.append("it has prompts that the bundle has not, or one twice")
    least, largest = 1.0, 0.0
    for case in vectors.cases:
        if case.name not in given:
            continue
        try:
            iou, error = compared(given[case.name], case)
        except (BundleError, KeyError, TypeError, ValueError) as fault:
            problems.append(f"prompt `{case.name}`: {fault}")
            continue
        if not iou >= vectors.mask_iou:
            problems.append(f"prompt `{case.name}`: mask IoU {iou:.6f}, want {vectors.mask_iou:g}")
        if not error <= vectors.score_error:
            problems.append(
                f"prompt `{case.name}`: score off by {error:.2e}, want {vectors.score_error:g}"
            )
        least, largest = min(least, iou), max(largest, error)
    return problems, least, largest


def compared(answer: Mapping[str, Any], case: GoldenCase) -> tuple[float, float]:
    """Least mask IoU of the answers a user is given, and largest error of a score."""
    from effsam_export.parity.metrics import mask_iou

    masks = [rle.decode(m) for m in answer["masks"]]
    scores = np.asarray(answer["scores"], dtype=np.float64)
    if len(masks) != len(case.masks) or scores.shape != case.scores.shape:
        raise ValueError(f"{len(masks)} masks and {scores.size} scores, want {len(case.masks)}")
    if any(m.shape != case.masks[0].shape for m in masks):
        raise ValueError(f"masks of {masks[0].shape}, want {case.masks[0].shape}")
    iou = min(mask_iou(case.masks[i], masks[i]) for i in case.answers)
    return iou, float(np.abs(scores - case.scores).max())


def unsigned(result: Path, key: Path) -> str | None:
    """Why a result is not signed with a key; None where it is."""
    from effsam_export.bundle import signature

    return signature.fault(result, result.with_name(f"{result.name}.sig"), key)


def rewritten(bundle: read.Bundle, found: Attestation, result: Path) -> None:
    """The bundle with an attestation more, in the place of the one it was."""
    with staging.staged(bundle.path) as work:
        shutil.copytree(bundle.path, work, dirs_exist_ok=True)
        (work / SIGNATURE).unlink(missing_ok=True)
        folder = work / FOLDER
        folder.mkdir(exist_ok=True)
        name = re.sub(r"[^a-z0-9]+", "-", f"{found.device} {found.runtime}".lower()).strip("-")
        file = folder / f"{name[:80]}.json"
        shutil.copyfile(result, file)
        manifest = json.loads((work / MANIFEST).read_text("utf-8"))
        entry = {
            "device": found.device,
            "runtime": found.runtime,
            "version": found.version,
            "language": found.language,
            "signed": found.signed,
            "min_mask_iou": found.min_iou,
            "max_score_error": found.score_error,
            "manifest_sha256": found.manifest_sha256,
            "file": file.relative_to(work).as_posix(),
        }
        # The manifest stays in the version it was written in.
        key = "attested" if bundle.manifest_version == 3 else "attestations"
        others = [a for a in manifest.get(key, []) if a["file"] != entry["file"]]
        manifest[key] = sorted([*others, entry], key=lambda a: a["file"])
        if manifest["state"] == "simulated":
            manifest["state"] = ON_DEVICE
        manifest["files"] = [e for e in write.list_files(work) if e["path"] != MANIFEST]
        validate(manifest)
        write.write_json(work / MANIFEST, manifest)
