"""`effsam verify`: does a bundle still do what it says?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from effsam_export.cli import console
from effsam_export.cli.options import (
    BundleOrFile,
    CacheDir,
    CheckpointFile,
    Json,
    KeyFile,
    ParityFile,
    Quiet,
)
from effsam_export.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.stages import Checkpoint


def verify(
    bundle: BundleOrFile,
    checkpoint: CheckpointFile = None,
    level: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--level",
            help="golden: files and golden vectors only. full: the comparison with PyTorch too, "
            "and fail if it cannot be made [default: as far as this machine can].",
        ),
    ] = None,
    parity: ParityFile = None,
    key: KeyFile = None,
    json: Json = False,
    quiet: Quiet = False,
    cache_dir: CacheDir = None,
) -> None:
    """Check a bundle: its files, its golden vectors, and the three comparisons against PyTorch."""
    from effsam_export.bundle import archive
    from effsam_export.pipeline import run as pipeline
    from effsam_export.pipeline import verify as library

    if level not in (None, "golden", "full"):
        raise UsageError(f"unknown level `{level}`", hint="`golden` or `full`")
    terminal = console.Console(quiet=quiet)
    try:
        with archive.opened(bundle) as path:
            found = library.verify(
                path,
                checkpoint=_weights(path, checkpoint, cache_dir),
                level=level,  # type: ignore[arg-type]  # checked above
                parity_file=parity,
                key=key,
                on_event=terminal.on_event,
            )
    finally:
        terminal.close()
    if json:
        console.document(
            {
                "bundle": str(bundle),
                "passed": found.passed,
                "failures": list(found.failures),
                "golden": [
                    {"case": g.case, "mask_iou": g.mask_iou, "score_error": g.score_error}
                    for g in found.golden
                ],
                "comparisons_not_run": found.not_run,
                "placement": list(found.placement),
                **(pipeline.figures(found.report) if found.report else {}),
            }
        )
    elif found.report is not None:
        console.data(console.parity_table(found.report))
    elif found.golden:
        rows = [[g.case, f"{g.mask_iou:.4f}", f"{g.score_error:.1e}"] for g in found.golden]
        console.data(console.table(("golden vector", "mask IoU", "score error"), rows))
    if found.not_run is not None:
        terminal.message(f"not compared with PyTorch: {found.not_run}")
    for line in found.placement:
        terminal.message(line)
    judged = f", {console.state(found.report)}" if found.report else ""
    terminal.result(passed=found.passed, what=f"{bundle}{judged}")
    if not found.passed:
        raise CheckFailed(
            "the bundle failed:\n  " + "\n  ".join(found.failures or ("nothing could be checked",))
        )


def _weights(bundle: Path, checkpoint: Path | None, cache_dir: Path | None) -> Checkpoint | None:
    """The given checkpoint, or the cached official one; nothing is downloaded."""
    from effsam_export.bundle.read import read
    from effsam_export.weights import fetch

    spec = read(bundle).model
    if checkpoint is not None:
        return fetch.checkpoint_from_file(checkpoint, spec.weights)
    if spec.weights is None:
        return None
    found = fetch.cached(spec.weights, cache_dir=cache_dir or fetch.default_cache_dir())
    same = found is not None and found.sha256 == read(bundle).manifest["checkpoint"]["sha256"]
    return found if same else None
