"""Temporary directories that belong to a running process.

A process that is killed cannot remove its directory. The next process that writes to the same
folder does: each directory holds a lock file, and the operating system releases the lock of a
process that died. A directory in use is never touched, whatever its age.

::

    .NAME.effsam-XXXXXXXX.partial/effsam.lock   locked by the owner
    .NAME.effsam-XXXXXXXX.partial/new           what the owner writes
    .NAME.effsam-XXXXXXXX.partial/old/NAME      what `new` is about to replace
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from effsam_export.util.moves import move_beside, move_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK, NEW, OLD = "effsam.lock", "new", "old"
MARK, SUFFIX = ".effsam-", ".partial"
MAX_PREFIX = 60
"""Characters of the output's name in the directory's name, which has 255 bytes at most."""
ATTEMPTS = 100


@contextmanager
def owned_directory(parent: Path, name: str) -> Iterator[Path]:
    """Yield a new private directory, which is removed at the end.

    Directories in `parent` whose owner died are removed first.

    Args:
        parent: An existing directory.
        name: Name of the output, for the directory's own name.

    Raises:
        OSError: The directory cannot be created.
    """
    remove_abandoned(parent)
    directory, lock = _create(parent, name)
    try:
        yield directory
    finally:
        try:
            _empty(directory)
        finally:
            os.close(lock)
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """Yield an empty directory in the system's folder for temporary files; remove it at the end.

    Raises:
        OSError: The directory cannot be created.
    """
    with owned_directory(Path(tempfile.gettempdir()), "tmp") as directory:
        (directory / NEW).mkdir()
        yield directory / NEW


def remove_abandoned(parent: Path) -> None:
    """Remove the directories in `parent` whose owner died; ignore errors.

    An output that its owner had moved away, and not replaced yet, is moved back.
    """
    try:
        with os.scandir(parent) as entries:
            found = [
                Path(entry.path)
                for entry in entries
                if entry.name.startswith(".")
                and entry.name.endswith(SUFFIX)
                and MARK in entry.name
                and entry.is_dir(follow_symlinks=False)
                and _is_mine(entry.stat(follow_symlinks=False))
            ]
    except OSError:
        return
    for directory in found:
        with suppress(OSError):
            _remove_if_abandoned(directory)


def _is_mine(status: os.stat_result) -> bool:
    """Return whether this user made a directory: in a shared folder others may imitate them."""
    return os.name == "nt" or status.st_uid == os.geteuid()


def _remove_if_abandoned(directory: Path) -> None:
    """Remove a directory whose lock is free.

    Raises:
        OSError: It is in use, or cannot be removed.
    """
    try:
        lock = os.open(directory / LOCK, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        # Its owner died, or is about to create the lock file: `_create` then tries again.
        directory.rmdir()
        return
    try:
        _lock(lock)
        _empty(directory)
        # Before the lock is released: an owner that waits for it must see that the file is gone.
        with suppress(PermissionError):  # Windows removes no file that is open
            (directory / LOCK).unlink()
    finally:
        os.close(lock)
    shutil.rmtree(directory, ignore_errors=True)


def _create(parent: Path, name: str) -> tuple[Path, int]:
    """Return a new directory, and the open file whose lock says that it is in use."""
    prefix = "." + re.sub(r"[^A-Za-z0-9._-]", "_", name)[:MAX_PREFIX] + MARK
    for _ in range(ATTEMPTS):
        directory = Path(tempfile.mkdtemp(prefix=prefix, suffix=SUFFIX, dir=parent))
        try:
            lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except FileNotFoundError:
            continue  # another process took the empty directory for an abandoned one
        if _is_owner(lock, directory / LOCK):
            return directory, lock
        os.close(lock)
    raise FileNotFoundError(f"`{prefix}` disappears as soon as it is created")


def _is_owner(lock: int, path: Path) -> bool:
    """Lock a new lock file; return False if another process is removing it."""
    try:
        _lock(lock)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        # A file system without locks: nobody can lock the file, so nobody removes it.
        return True
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: int) -> None:
    """Lock an open file against other processes and threads; raise `OSError` if another has it."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _empty(directory: Path) -> None:
    """Remove all files of an owned directory but its lock, and finish an interrupted swap."""
    if (directory / NEW).exists():
        for old in (directory / OLD).glob("*"):
            restore(old, directory.parent / old.name)
    for name in (NEW, OLD):
        shutil.rmtree(directory / name, ignore_errors=True)


def restore(old: Path, output: Path) -> Path:
    """Move a directory back to its path, or beside it if there is something else; return the path.

    Raises:
        OSError: It cannot be moved.
    """
    try:
        move_directory(old, output)
    except FileExistsError:
        return move_beside(old, output, "old")
    return output
