"""List the cached results of builds, and remove those that were not used for some time.

The age of a result counts from its last use: a build that uses one updates its modification time.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effsam_export.matrix.lock import exclusive
from effsam_export.matrix.store import BUILT
from effsam_export.pipeline.stage_cache import OUTPUTS, RECORD, unwritable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAY_S = 24 * 60 * 60


@dataclass(frozen=True, kw_only=True)
class CachedResult:
    """One result in the cache.

    Attributes:
        kind: `bundles`, `stages` (traces and converted graphs) or `outputs` (outputs of PyTorch for
            the evaluation prompts).
        path: Its folder or file.
        bytes: Size of all its files.
        unused_s: Seconds since its last use.
    """

    kind: str
    path: Path
    bytes: int
    unused_s: float


def cached_results(root: Path) -> list[CachedResult]:
    """Return all results in the cache folder `Store.root`; none if it does not exist."""
    candidates = (
        *(("bundles", p, p / BUILT) for p in root.glob("bundles/*")),
        *(("stages", p.parent, p) for p in root.glob(f"stages/*/{RECORD}")),
        *(("outputs", p, p) for p in root.glob(f"stages/{OUTPUTS}/*.npz")),
    )
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


def remove_unused(root: Path, days: float) -> list[CachedResult]:
    """Remove results that were not used for some days, and return them.

    Args:
        root: Folder of the store.
        days: Minimum age; 0 removes everything.

    Raises:
        OutputError: A build is using the cache, or a file cannot be removed.
    """
    if not root.is_dir():
        return []
    try:
        with exclusive(root):
            old = [k for k in cached_results(root) if k.unused_s >= days * DAY_S]
            for result in old:
                if result.path.is_file():
                    result.path.unlink()
                    continue
                # Moved first: after a kill the next build removes the rest.
                doomed = root / "work" / f"removed-{result.path.name}"
                result.path.replace(doomed)
                shutil.rmtree(doomed)
    except OSError as error:
        raise unwritable(root, error) from error
    return old
