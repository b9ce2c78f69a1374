"""Atomic file writes, file hashes and sizes."""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from effsam_export.errors import CheckpointError, OutputError, shown
from effsam_export.util.moves import move_file
from effsam_export.util.owned import owned_directory
from effsam_export.util.reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

CHUNK_BYTES = 1024 * 1024
STAGING_BYTES = 32
"""What the names of staging directories and reports add to the name of a directory."""
IS_A_DIRECTORY = "is a directory"
MAX_NAME_BYTES = 255
"""Longest name of a file or folder in the usual file systems."""


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically; an existing file is replaced only by the complete new one.

    Raises:
        OutputError: The file cannot be written (rights, no such directory, a full disk).
    """
    with atomic_file(path) as partial:
        partial.write_bytes(data)


@contextmanager
def atomic_file(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary path; it is renamed to `path` when the block ends without an error.

    Args:
        path: The file. A link at this path is replaced, and not followed.
        replace: Whether a file that is at `path` when the block ends is replaced.

    Raises:
        OutputError: The file cannot be written (rights, no such directory, a full disk), or there
            is something at `path` that is not replaced.
    """
    try:
        # In the directory of `path`, because a rename is atomic only within one file system.
        with owned_directory(path.parent, path.name) as directory:
            partial = directory / path.name
            yield partial
            if path.exists() and not path.is_file():
                raise OutputError(f"`{path}` is not a file", hint="choose another name")
            if replace:
                partial.replace(path)
            else:
                _move_new(partial, path)
    except (OSError, UnicodeEncodeError) as error:
        raise OutputError(
            f"cannot write `{path}`: {reason_of(error)}",
            hint="choose a path in a directory that exists and is writable",
        ) from error


def fault_of_file(path: Path) -> str | None:
    """Return why a path is not a file to read, as the end of a sentence; None if it is one."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "does not exist"
    except (OSError, ValueError) as error:
        return f"cannot be read: {reason_of(error)}"
    if stat.S_ISDIR(mode):
        return IS_A_DIRECTORY
    if not stat.S_ISREG(mode):
        return "is not a regular file"
    return None if os.access(path, os.R_OK) else "cannot be read: permission denied"


def require_output(path: Path, *, directory: bool = False, what: str = "") -> None:
    """Check that an output can be written, before the work that it is for; create nothing.

    Args:
        path: The output.
        directory: It is a directory, whose parents are created with it.
        what: Name of the output for the message.

    Raises:
        OutputError: It cannot be written; the message says why.
    """
    if fault := _fault_of_output(path, directory=directory):
        subject = f"{what} `{shown(path)}`" if what else f"`{shown(path)}`"
        raise OutputError(
            f"cannot write {subject}: {fault}",
            hint="choose a path in a directory that exists and is writable",
        )


def _fault_of_output(path: Path, *, directory: bool) -> str | None:
    if "\0" in str(path):
        return "it has a null character"
    try:
        if not directory and path.is_dir():
            return IS_A_DIRECTORY
        folder = path.absolute().parent
        missing = [path.name]
        while not os.path.lexists(folder):
            missing.append(folder.name)
            folder = folder.parent
        # `lexists` also returns False for a name that the system refuses.
        longest = max(len(os.fsencode(name)) for name in missing)
        folder.stat()
    except (OSError, ValueError) as error:
        return reason_of(error)
    if longest > MAX_NAME_BYTES - (STAGING_BYTES if directory else 0):
        return "file name too long"
    if not directory and len(missing) > 1:
        return f"there is no directory `{shown(path.parent)}`"
    if not folder.is_dir():
        return f"`{shown(folder)}` is not a directory"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"`{shown(folder)}` is not writable"
    return None


def _move_new(partial: Path, path: Path) -> None:
    try:
        move_file(partial, path)
    except FileExistsError as error:
        raise OutputError(
            f"`{path}` was created by another program meanwhile, and is not replaced",
            hint="choose another name, or run the command again to replace it",
        ) from error


def megabytes(files: Iterable[Path]) -> str:
    """Return the total size of the files as text, in MB of 1e6 bytes."""
    return f"{sum(f.stat().st_size for f in files) / 1e6:.1f} MB"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 lower-case hexadecimal digits.

    Raises:
        CheckpointError: The file cannot be read.
    """
    digest = hashlib.sha256()
    with reading(path), path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise `CheckpointError` in place of an `OSError` in the block."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"cannot read `{path}`: {reason_of(error)}", hint="check its permissions and its disk"
        ) from error
