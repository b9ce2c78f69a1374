"""Renames that replace nothing: what appears at an output path meanwhile is not lost."""

from __future__ import annotations

import errno
import os
import shutil
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def move_directory(source: Path, target: Path) -> None:
    """Rename a directory. An empty directory at `target` is replaced, anything else is not.

    Raises:
        FileExistsError: There is something at `target`.
        OSError: The directory cannot be renamed.
    """
    try:
        if os.name == "nt" and target.is_dir() and not target.is_symlink():
            # POSIX replaces an empty directory, Windows does not.
            target.rmdir()
        source.rename(target)
    except OSError as error:
        if os.path.lexists(target):
            raise _exists(target) from error
        raise


def move_file(source: Path, target: Path) -> None:
    """Rename a file to a path at which there is nothing.

    Raises:
        FileExistsError: There is something at `target`.
        OSError: The file cannot be renamed.
    """
    if os.name == "nt":
        # Replaces nothing on Windows.
        source.rename(target)
        return
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        raise _exists(target) from None
    except OSError:
        # A file system without hard links.
        with target.open("xb") as sink, source.open("rb") as file:
            shutil.copyfileobj(file, sink)
    source.unlink()


def move_beside(source: Path, output: Path, word: str) -> Path:
    """Rename a directory to `<output>.<word>`, or with `-2` and so on; return its path.

    Raises:
        OSError: The directory cannot be renamed.
    """
    for number in count(1):
        target = output.with_name(f"{output.name}.{word}" + (f"-{number}" if number > 1 else ""))
        if os.path.lexists(target):
            continue
        try:
            move_directory(source, target)
        except FileExistsError:
            continue
        return target
    raise AssertionError


def _exists(path: Path) -> FileExistsError:
    return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
