"""Record the results of an evaluation in the manifest of a bundle, as `evaluated`.

The manifest is what a signature signs, so a signed bundle is refused. No other file changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from effsam_export._version import __version__
from effsam_export.bundle import read
from effsam_export.bundle.manifest import MANIFEST, MANIFEST_VERSION, load, validate
from effsam_export.bundle.read import SIGNATURE
from effsam_export.bundle.write import json_text
from effsam_export.errors import BundleError, joined, shown
from effsam_export.util.files import require_output, sha256_of, write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from effsam_export.evaluate.results import Evaluated, Evaluation, Result

KEY = "evaluated"
RECORDED = (
    "prompt", "size", "objects", "miou", "interval",
    "difference", "difference_interval", "agreement", "best_mask_changes",
)  # fmt: skip
"""Figures of a result that are recorded."""


def check(path: Path) -> None:
    """Check that the manifest of a bundle can take results.

    Args:
        path: The bundle as the user gave it.

    Raises:
        BundleError: It is packed, signed, not intact, or its manifest has an older version.
        OutputError: Its manifest cannot be written.
    """
    if path.is_file():
        raise BundleError(
            f"bundle `{path}` is packed, so results cannot be recorded in it",
            hint="unpack it with `effsam unpack`, record, and pack it again",
        )
    bundle = read.read(path)
    if (path / SIGNATURE).exists():
        raise BundleError(
            f"bundle `{path}` is signed, and recording results would break the signature",
            hint=f"leave out --record; or remove `{SIGNATURE}`, record, and sign it again",
        )
    if bundle.manifest_version != MANIFEST_VERSION:
        raise BundleError(
            f"the manifest of bundle `{path}` is version {bundle.manifest_version}, which cannot "
            f"hold results; version {MANIFEST_VERSION} can",
            hint="export it again, or leave out --record",
        )
    if broken := read.integrity(bundle):
        raise BundleError(f"bundle `{path}` is not intact: {joined(broken)}")
    require_output(path / MANIFEST)


def add(path: Path, evaluation: Evaluation, evaluated: Evaluated, before: str) -> None:
    """Write the results of a bundle into its manifest; they replace those on the same annotations.

    Args:
        path: Directory of the bundle.
        evaluation: The whole evaluation.
        evaluated: The results of this bundle.
        before: Hash of the manifest that was evaluated.

    Raises:
        BundleError: It was signed or changed meanwhile.
        OutputError: The manifest cannot be written.
    """
    check(path)
    file = path / MANIFEST
    if sha256_of(file) != before:
        raise BundleError(
            f"`{file}` was changed by another program during the evaluation",
            hint="run the command again: it goes on where it was",
        )
    manifest = load(file.read_bytes(), str(file))
    entry = entry_of(evaluation, evaluated, before)
    others = [
        e
        for e in manifest.get(KEY, [])
        if e["annotations"]["sha256"] != entry["annotations"]["sha256"]
    ]
    manifest[KEY] = sorted(
        [*others, entry], key=lambda e: (e["annotations"]["file"], e["annotations"]["sha256"])
    )
    validate(manifest)
    write_whole(file, json_text(manifest).encode("utf-8"))


def entry_of(evaluation: Evaluation, evaluated: Evaluated, manifest_sha256: str) -> dict[str, Any]:
    """Return the entry of `evaluated` in a manifest.

    Args:
        evaluation: The whole evaluation.
        evaluated: The results of the bundle.
        manifest_sha256: Hash of its manifest before.
    """
    source = evaluation.annotations
    reference = evaluated.reference
    return {
        "annotations": {
            "file": shown(source.file),
            "sha256": source.sha256,
            "images": source.images,
            "objects": source.objects,
        },
        "seed": evaluation.seed,
        "runtime": evaluated.runtime,
        "simulator": evaluated.simulator,
        "effsam": __version__,
        "reference_sha256": None if reference is None else reference.sha256,
        "manifest_sha256": manifest_sha256,
        "results": [_result(result) for result in evaluated.results],
    }


def _result(result: Result) -> Mapping[str, Any]:
    values = {name: getattr(result, name) for name in RECORDED}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
