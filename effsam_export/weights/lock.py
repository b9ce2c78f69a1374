"""Hashes of files whose authors publish none: trusted on the first download, checked afterwards.

They are stored in `<cache>/weights.lock.json`. A team can commit this file and copy it into new
caches, so that all members use the same weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from effsam_export.errors import DownloadError
from effsam_export.util.files import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.model import WeightFile

FILE_NAME = "weights.lock.json"


@dataclass(frozen=True, kw_only=True)
class FileHash:
    """The expected sha256 of a file, and its size in bytes, or None if unknown."""

    sha256: str
    size: int | None


def expected_hash(weights: WeightFile, cache_dir: Path) -> FileHash | None:
    """Return the pinned hash of a file, else that of its first download, else None.

    Raises:
        DownloadError: The lock file cannot be read.
    """
    if weights.sha256 is not None:
        return FileHash(sha256=weights.sha256, size=weights.size)
    entry = _read(cache_dir).get(weights.file_name)
    return None if entry is None else FileHash(sha256=entry["sha256"], size=entry["size"])


def trust(weights: WeightFile, sha256: str, size: int, model: str, cache_dir: Path) -> None:
    """Store the hash of a file without a published hash after its first download.

    Raises:
        OutputError: The lock file cannot be written.
    """
    entries = _read(cache_dir)
    entries[weights.file_name] = {"sha256": sha256, "size": size, "model": model}
    text = json.dumps(entries, indent=2, sort_keys=True) + "\n"
    write_whole(cache_dir / FILE_NAME, text.encode())


def _read(cache_dir: Path) -> dict[str, dict[str, Any]]:
    path = cache_dir / FILE_NAME
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
        return {
            str(name): {**entry, "sha256": str(entry["sha256"]), "size": int(entry["size"])}
            for name, entry in content.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DownloadError(
            f"`{path}` cannot be read: {error}",
            hint="repair it, or delete it to trust the next download",
        ) from error
