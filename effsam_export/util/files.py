"""Files that appear whole or not at all, and how large they are."""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from effsam_export.errors import CheckpointError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

CHUNK_BYTES = 1024 * 1024


def write_whole(path: Path, data: bytes) -> None:
    """Write a file; one that is there already is replaced only by a whole one.

    Raises:
        OutputError: It cannot be written (rights, no such directory, a full disk).
    """
    with written(path) as partial:
        partial.write_bytes(data)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place when the block ends well.

    Raises:
        OutputError: It cannot be written (rights, no such directory, a full disk).
    """
    # A short name of its own: beside `path`, so that the rename stays on one file system.
    partial = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot write `{path}`: {why(error)}",
            hint="choose another place, in a directory that exists and can be written",
        ) from error


def why(error: OSError) -> str:
    """What the system says is the matter, in small letters.

    A folder that could not be copied has a reason for each of its files: the first one's.
    """
    text = error.strerror or str(error)
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):
        text = str(error.args[0][0][-1])
        # "[Errno 28] No space left on device: 'from' -> 'to'"
        found = re.match(r"\[Errno \d+\] ([^:]+)", text)
        text = found[1] if found else text
    return text.lower()


def megabytes(files: Iterable[Path]) -> str:
    """Sizes added up, in MB of a million bytes."""
    return f"{sum(f.stat().st_size for f in files) / 1e6:.1f} MB"


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, 64 hexadecimal digits in lower case.

    Raises:
        CheckpointError: It cannot be read.
    """
    digest = hashlib.sha256()
    with reading(path), path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an error of reading a file into a `CheckpointError`."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"cannot read `{path}`: {why(error)}", hint="check who may read it, and its disk"
        ) from error
