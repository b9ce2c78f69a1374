"""Files that appear whole or not at all, and how large they are."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

from effsam_export.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


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
            f"cannot write `{path}`: {(error.strerror or str(error)).lower()}",
            hint="choose another place, in a directory that exists and can be written",
        ) from error


def megabytes(files: Iterable[Path]) -> str:
    """Sizes added up, in MB of a million bytes."""
    return f"{sum(f.stat().st_size for f in files) / 1e6:.1f} MB"
