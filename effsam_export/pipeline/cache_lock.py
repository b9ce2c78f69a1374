"""The lock of the cache: shared by exports and builds, exclusive for the removal of files.

The operating system releases a lock when the process that holds it dies.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

from effsam_export.errors import OutputError
from effsam_export.pipeline.stage_cache import unwritable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from filelock import ReadWriteLock

FILE_NAME = "lock"


class CacheInUse(OutputError):
    """An export or a build in another process holds the lock.

    Args:
        root: Folder of the store.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(
            f"an export or a build is using the cache `{root}`", hint="wait until it is done"
        )


@contextmanager
def shared(root: Path) -> Iterator[None]:
    """Hold the lock together with other exports and builds; wait while files are being removed.

    Raises:
        OutputError: The lock file cannot be written.
    """
    lock = _open(root)
    try:
        lock.acquire_read()
    except (OSError, sqlite3.Error) as error:
        raise _unwritable(root, error) from error
    try:
        yield
    finally:
        lock.close()


@contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """Hold the lock alone, without waiting for it.

    Raises:
        CacheInUse: Another process holds it.
        OutputError: The lock file cannot be written.
    """
    from filelock import Timeout

    lock = _open(root)
    try:
        lock.acquire_write(blocking=False)
    except Timeout:
        raise CacheInUse(root) from None
    except (OSError, sqlite3.Error) as error:
        raise _unwritable(root, error) from error
    try:
        yield
    finally:
        lock.close()


def _open(root: Path) -> ReadWriteLock:
    from filelock import ReadWriteLock

    try:
        # Not shared with other holders in this process: each waits for the others.
        return ReadWriteLock(root / FILE_NAME, is_singleton=False)
    except (OSError, sqlite3.Error) as error:
        raise _unwritable(root, error) from error


def _unwritable(root: Path, error: OSError | sqlite3.Error) -> OutputError:
    return unwritable(root, error if isinstance(error, OSError) else OSError(str(error)))
