"""Files of the source tree, in a checkout and in an unpacked source distribution."""

from __future__ import annotations

import subprocess

from tests.paths import REPOSITORY

IS_CHECKOUT = (REPOSITORY / ".git").exists()


def source_files(pattern: str = "") -> set[str]:
    """Return the paths that git knows, or all files of a source distribution but its metadata.

    Args:
        pattern: A folder or a suffix as in `*.py`; empty for every file.
    """
    return _git_files(pattern) if IS_CHECKOUT else _unpacked_files(pattern)


def _git_files(pattern: str) -> set[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(
        [*command, *([pattern] if pattern else [])],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return {f for f in done.stdout.splitlines() if (REPOSITORY / f).is_file()}


def _unpacked_files(pattern: str) -> set[str]:
    glob = pattern if pattern.startswith("*") else f"{pattern}/**/*".removeprefix("/")
    paths = REPOSITORY.rglob(glob) if pattern.startswith("*") else REPOSITORY.glob(glob)
    names = {p.relative_to(REPOSITORY).as_posix() for p in paths if p.is_file()}
    return {n for n in names if "__pycache__" not in n and n != "PKG-INFO"}
