"""Hashes of files whose authors publish none: trusted on the first download, and held to it.

Recorded in `<cache>/weights.lock.json`, which a team can keep in its repository and copy into a
fresh cache, so that everybody gets the file that the first of them got.
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
class Known:
    """What a file has to be: its sha256, and its length in bytes where that is known too."""

    sha256: str
    size: int | None


def known(weights: WeightFile, cache_dir: Path) -> Known | None:
    """The pinned hash of a file, else the one it had when it was first fetched, else None.

    Raises:
        DownloadError: The lock cannot be read: it is not taken for an empty one.
    """
    if weights.sha256 is not None:
        return Known(sha256=weights.sha256, size=weights.size)
    entry = _read(cache_dir).get(weights.file_name)
    return None if entry is None else Known(sha256=entry["sha256"], size=entry["size"])


def trust(weights: WeightFile, sha256: str, size: int, model: str, cache_dir: Path) -> None:
    """Record what a file without a published hash was at its first download.

    Raises:
        OutputError: It cannot be written.
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
            f"`{path}` cannot be read: {error}", hint="repair it, or delete it to trust anew"
        ) from error
