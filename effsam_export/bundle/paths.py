"""Paths of files in a bundle: one spelling on every system, and none outside the bundle."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from effsam_export.errors import shown

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ALLOWED = re.compile(r"[A-Za-z0-9._/-]+")
MAX_PATH, MAX_NAME = 400, 200
"""Characters of a path and of one of its parts; file systems take 255 bytes for a part."""
DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(10))}
"""Windows opens a device under these names, with any suffix."""


def fault(path: str) -> str | None:
    """Return why a path cannot be that of a file in a bundle, as the end of a sentence, or None."""
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or "\\" in path or ":" in path:
        return "lies outside the bundle"
    if PurePosixPath(path).as_posix() != path or path == ".":
        return "is not a normalized path"
    if not ALLOWED.fullmatch(path):
        return "has a character that is not one of A-Z a-z 0-9 . _ - /"
    if len(path) > MAX_PATH or max(map(len, parts)) > MAX_NAME:
        return f"is too long: {MAX_PATH} characters at most, {MAX_NAME} between two `/`"
    # Windows drops a dot at the end of a name.
    if any(part.endswith(".") for part in parts):
        return "ends a name with a dot"
    if any(part.split(".")[0].lower() in DEVICES for part in parts):
        return "is the name of a device on Windows"
    return None


def faults(paths: Iterable[str]) -> list[str]:
    """Return a sentence for each path that is not valid, occurs twice, or is a folder of another.

    Paths that differ only in case are equal: on macOS and Windows they are one file.
    """
    known = list(paths)
    problems = [f"`{shown(p)}` {problem}" for p in known if (problem := fault(p))]
    folders = {parent.as_posix().casefold() for p in known for parent in PurePosixPath(p).parents}
    seen: set[str] = set()
    for path in known:
        key = path.casefold()
        if key in seen:
            problems.append(f"`{shown(path)}` occurs twice")
        if key in folders and fault(path) is None:
            problems.append(f"`{shown(path)}` is a file and a folder")
        seen.add(key)
    return problems


def link_in(root: Path, path: str) -> str | None:
    """Return the first part of a path below `root` that is a link, or None."""
    here = root
    for part in PurePosixPath(path).parts:
        here = here / part
        if here.is_symlink():
            return here.relative_to(root).as_posix()
    return None
