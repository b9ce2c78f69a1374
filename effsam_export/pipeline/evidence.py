"""The log and the report of a failed export, in a directory `<output>.failed` beside its output.

The directory holds a list of its files and their hashes. It is replaced or removed only while it
holds these files alone, unchanged; otherwise the next evidence goes to `<output>.failed-2`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from itertools import count, takewhile
from typing import TYPE_CHECKING

from effsam_export.errors import EffsamError
from effsam_export.util import json_text
from effsam_export.util.files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

LIST = ".effsam-failed.json"


def keep(output: Path, files: Mapping[str, bytes]) -> Path:
    """Write the evidence of a failed export, and return its directory.

    Args:
        output: Directory that the bundle would have had.
        files: File name -> content.

    Raises:
        OutputError: The directory cannot be written.
    """
    from effsam_export.bundle import staging

    directory = next(d for d in _directories(output) if not os.path.lexists(d) or is_own(d))
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    with staging.staged(directory, replaces=is_own) as work:
        for name, content in files.items():
            (work / name).write_bytes(content)
        (work / LIST).write_text(json.dumps(hashes, indent=2, sort_keys=True), "utf-8")
    return directory


def remove(output: Path) -> None:
    """Remove the evidence of earlier failures; what somebody changed is kept."""
    for directory in takewhile(os.path.lexists, _directories(output)):
        if is_own(directory):
            shutil.rmtree(directory, ignore_errors=True)


def is_own(directory: Path) -> bool:
    """Return whether a directory holds the files that `keep` wrote, and nothing else."""
    listed = directory / LIST
    try:
        if directory.is_symlink() or listed.is_symlink() or not listed.is_file():
            return False
        hashes = json_text.load(listed)
        paths = [p for p in directory.iterdir() if p != listed]
        if any(p.is_symlink() or not p.is_file() for p in paths):
            return False
        if not isinstance(hashes, dict) or hashes.keys() != {p.name for p in paths}:
            return False
        return all(hashes[p.name] == sha256_of(p) for p in paths)
    except (OSError, ValueError, EffsamError):
        return False


def _directories(output: Path) -> Iterator[Path]:
    """Yield the names that evidence may have, the preferred one first."""
    for number in count(1):
        yield output.with_name(f"{output.name}.failed" + (f"-{number}" if number > 1 else ""))
