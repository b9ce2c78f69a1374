"""The checkpoints in the cache: which files are there, and of which models."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effsam_export.weights.fetch import UNPINNED, slot_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from effsam_export.spec.model import WeightFile

SLOT = re.compile(r"[0-9a-f]{12}")
PARTIAL = ".partial"


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A downloaded file.

    Attributes:
        path: In the cache.
        bytes: Its size.
        models: Names of the models whose official checkpoint it is; its hash was checked when it
            was downloaded.
        complete: Whether the whole file is there; the next download continues a partial one.
    """

    path: Path
    bytes: int
    models: tuple[str, ...]
    complete: bool


def stored_files(cache_dir: Path, official: Mapping[str, WeightFile | None]) -> list[StoredFile]:
    """Return the downloaded files of a cache, sorted by path; none if it does not exist.

    Args:
        cache_dir: The cache.
        official: Name of each model -> its official checkpoint.
    """
    owners: dict[Path, list[str]] = {}
    for name, weights in official.items():
        if weights is not None:
            owners.setdefault(slot_of(weights, cache_dir) / weights.file_name, []).append(name)
    found = []
    folders = sorted(cache_dir.iterdir()) if cache_dir.is_dir() else []
    for folder in folders:
        if not folder.is_dir() or not (SLOT.fullmatch(folder.name) or folder.name == UNPINNED):
            continue
        for path in sorted(folder.iterdir()):
            # A file may be removed meanwhile.
            with suppress(OSError):
                if path.is_file() and not path.name.startswith("."):
                    found.append(
                        StoredFile(
                            path=path,
                            bytes=path.stat().st_size,
                            models=tuple(owners.get(path, ())),
                            complete=path.suffix != PARTIAL,
                        )
                    )
    return found
