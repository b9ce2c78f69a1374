"""Atomic file writes, file hashes and sizes."""

from __future__ import annotations

import hashlib
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

from effsam_export.errors import CheckpointError, OutputError
from effsam_export.util.reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

CHUNK_BYTES = 1024 * 1024


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically; an existing file is replaced only by the complete new one.

    Raises:
        OutputError: The file cannot be written (rights, no such directory, a full disk).
    """
    with atomic_file(path) as partial:
        partial.write_bytes(data)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; it is renamed to `path` when the block ends without an error.

    Raises:
        OutputError: The file cannot be written (rights, no such directory, a full disk).
    """
    # In the directory of `path`, because a rename is atomic only within one file system.
    partial = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot write `{path}`: {reason_of(error)}",
            hint="choose a path in a directory that exists and is writable",
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
