"""The results in a stage cache: list them, and remove some.

The age of a result counts from its last use, at which its modification time is set.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effsam_export.pipeline.cache_lock import exclusive
from effsam_export.pipeline.stage_cache import OUTPUTS, RECORD, unwritable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

STAGES = "stages"
"""Name of the folder of a cache that exports and builds share."""


@dataclass(frozen=True, kw_only=True)
class CachedResult:
    """One result in the cache.

    Attributes:
        kind: `bundles`, `stages` (traces and converted graphs) or `outputs` (outputs of PyTorch and
            ONNX Runtime for the evaluation prompts).
        path: Its folder or file.
        bytes: Size of all its files.
        unused_s: Seconds since its last use.
    """

    kind: str
    path: Path
    bytes: int
    unused_s: float


def stage_results(root: Path) -> list[CachedResult]:
    """Return the stages and outputs in a cache folder; none if it does not exist."""
    return results_of(
        (
            *(("stages", p.parent, p) for p in root.glob(f"{STAGES}/*/{RECORD}")),
            *(("outputs", p, p) for p in root.glob(f"{STAGES}/{OUTPUTS}/*.npz")),
        )
    )


def results_of(candidates: Iterable[tuple[str, Path, Path]]) -> list[CachedResult]:
    """Return results from their kind, their path, and the file whose time is their last use."""
    now, found = time.time(), []
    for kind, path, mark in candidates:
        try:
            used = mark.stat().st_mtime
            size = sum(f.stat().st_size for f in files_of(path))
        except FileNotFoundError:
            # Incomplete, or removed in the meantime.
            continue
        found.append(CachedResult(kind=kind, path=path, bytes=size, unused_s=now - used))
    return found


def files_of(path: Path) -> Iterator[Path]:
    """Yield a file itself, or all files in a folder."""
    return (p for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file())


def remove(root: Path, results: Iterable[CachedResult]) -> None:
    """Remove results of a cache folder whose exclusive lock this process holds.

    Raises:
        OSError: A file cannot be removed.
    """
    for result in results:
        if result.path.is_file():
            result.path.unlink(missing_ok=True)
            continue
        # Moved first: after a kill the next export or build removes the rest.
        doomed = root / "work" / f"removed-{result.path.name}"
        doomed.parent.mkdir(exist_ok=True)
        result.path.replace(doomed)
        shutil.rmtree(doomed)
        result.path.with_name(f"{result.path.name}.lock").unlink(missing_ok=True)


def remove_excess(root: Path, limit_bytes: float) -> list[CachedResult]:
    """Remove the least recently used stages and outputs over a size limit, and return them.

    Args:
        root: The cache folder.
        limit_bytes: Size of all stages and outputs that may stay.

    Raises:
        CacheInUse: An export or a build is using the cache.
        OutputError: A file cannot be removed.
    """
    try:
        left = sum(r.bytes for r in stage_results(root))
        if left <= limit_bytes:
            return []
        with exclusive(root):
            excess = []
            # Listed again: another process may have removed some.
            results = sorted(stage_results(root), key=lambda r: r.unused_s, reverse=True)
            left = sum(r.bytes for r in results)
            for result in results:
                if left <= limit_bytes:
                    break
                excess.append(result)
                left -= result.bytes
            remove(root, excess)
    except OSError as error:
        raise unwritable(root, error) from error
    return excess
