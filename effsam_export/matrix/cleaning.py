"""What builds keep, how large it is, and the removal of what nobody used for some time.

A result is as old as its last use: whoever takes one marks it.
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
class Kept:
    """One result in the cache.

    Attributes:
        kind: `bundles`, `stages` (traces and what was lowered) or `answers` (to prompts that
            judge).
        path: Its folder or file.
        bytes: Of all its files.
        unused_s: Since it was made or used last.
    """

    kind: str
    path: Path
    bytes: int
    unused_s: float


def kept(root: Path) -> list[Kept]:
    """Everything that builds keep in a folder, `Store.root`; nothing where there is none."""
    places = (
        *(("bundles", p, p / BUILT) for p in root.glob("bundles/*")),
        *(("stages", p.parent, p) for p in root.glob(f"stages/*/{RECORD}")),
        *(("answers", p, p) for p in root.glob(f"stages/{OUTPUTS}/*.npz")),
    )
    now, found = time.time(), []
    for kind, path, mark in places:
        try:
            used = mark.stat().st_mtime
            size = sum(f.stat().st_size for f in files_of(path))
        except FileNotFoundError:
            # Half of something, or gone since: a build sees to it.
            continue
        found.append(Kept(kind=kind, path=path, bytes=size, unused_s=now - used))
    return found


def files_of(path: Path) -> Iterator[Path]:
    """A file, or the files in a folder and below it."""
    return (p for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file())


def remove_unused(root: Path, days: float) -> list[Kept]:
    """Remove what was not used for so many days, and say what that was.

    Args:
        root: Of the store.
        days: 0 removes everything.

    Raises:
        OutputError: A build is using the cache, or it cannot be changed.
    """
    if not root.is_dir():
        return []
    try:
        with exclusive(root):
            old = [k for k in kept(root) if k.unused_s >= days * DAY_S]
            for result in old:
                if result.path.is_file():
                    result.path.unlink()
                    continue
                # Gone at once; what is left of it after a kill is swept by the next build.
                doomed = root / "work" / f"removed-{result.path.name}"
                result.path.replace(doomed)
                shutil.rmtree(doomed)
    except OSError as error:
        raise unwritable(root, error) from error
    return old
