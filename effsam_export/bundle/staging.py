"""A directory that is replaced as a whole: complete, or unchanged."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from effsam_export.bundle.manifest import MANIFEST
from effsam_export.errors import OutputError
from effsam_export.util import json_text
from effsam_export.util.moves import move_beside, move_directory
from effsam_export.util.owned import NEW, OLD, owned_directory, restore
from effsam_export.util.reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MAX_NAME_BYTES = 230
"""File systems allow 255; names such as `<output>.failed` must fit too."""
FINISHED = "finished"
"""A result that could not be moved to its output path is kept as `<output>.finished`."""


def check_output_free(output: Path, *, force: bool) -> None:
    """Refuse an output path that exists, before any work is done.

    Args:
        output: The directory to write.
        force: Allow a bundle at this path. An empty directory is always allowed, and anything else
            never.

    Raises:
        OutputError: The path is not free, or no directory can be created there.
    """
    if not output.name or output.name == ".." or os.path.ismount(output):
        raise OutputError(
            f"directory `{output}` cannot be replaced as a whole",
            hint="name a directory inside it, which does not exist yet",
        )
    if len(os.fsencode(output.name)) > MAX_NAME_BYTES:
        raise OutputError(
            f"the name `{output.name[:40]}...` has more than {MAX_NAME_BYTES} bytes",
            hint="choose a shorter --output",
        )
    try:
        if not os.path.lexists(output):
            return
        if output.is_symlink() or not output.is_dir():
            raise OutputError(
                f"`{output}` exists and is not a directory", hint="choose another --output"
            )
        if not any(output.iterdir()):
            return
    except OSError as error:
        raise _cannot_write(output, error) from error
    if not is_bundle(output):
        raise OutputError(
            f"directory `{output}` exists and is not a bundle",
            hint="choose another --output; --force only replaces bundles",
        )
    if not force:
        raise OutputError(
            f"bundle `{output}` exists already",
            hint="choose another --output, or replace it with --force",
        )


def is_bundle(path: Path) -> bool:
    """Return whether a path is a directory with a manifest of ours, of any version."""
    manifest = path / MANIFEST
    try:
        if path.is_symlink() or manifest.is_symlink() or not manifest.is_file():
            return False
        document = json_text.load(manifest)
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and {"manifest_version", "files"} <= document.keys()


@contextmanager
def staged(
    output: Path, *, replaces: Callable[[Path], bool] | None = None, keep: bool = False
) -> Iterator[Path]:
    """Yield a staging directory that becomes `output` when the block ends without an error.

    After an error `output` is unchanged. The staging directory lies beside `output`, and is always
    removed; after a kill, by the next process that writes there (`util/owned.py`).

    Args:
        output: The directory to write.
        replaces: Returns whether a directory may be replaced. It is asked about what is at `output`
            when the block ends; an empty directory is always replaced, and by default nothing else.
        keep: If `output` was taken meanwhile, keep the result as `<output>.finished`.

    Raises:
        OutputError: The directory cannot be written (permissions, a full disk), or there is
            something at `output` that is not replaced.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with owned_directory(output.parent, output.name) as directory:
            work = directory / NEW
            work.mkdir()
            yield work
            _publish(directory, output, replaces, keep=keep)
    except OSError as error:
        # The block writes to the same disk, so its errors are those of the output too.
        raise _cannot_write(output, error) from error


def _publish(
    directory: Path, output: Path, replaces: Callable[[Path], bool] | None, *, keep: bool
) -> None:
    """Move `new` of an owned directory to `output`."""
    work = directory / NEW
    try:
        try:
            move_directory(work, output)
        except FileExistsError:
            if replaces is None or not _is_directory(output) or not replaces(output):
                raise
            _swap(directory, output, replaces)
    except OSError as error:
        # What was moved away and could not be moved back must not be removed with this directory.
        if keep and not os.path.lexists(directory / OLD / output.name):
            kept = move_beside(work, output, FINISHED)
            raise _not_moved(output, error, f"the finished result is `{kept}`") from error
        if isinstance(error, FileExistsError):
            raise _not_moved(output, error, "choose another output path") from error
        raise


def _swap(directory: Path, output: Path, replaces: Callable[[Path], bool]) -> None:
    """Replace the directory at `output`; move it back if that fails.

    A process that dies in between leaves it in the owned directory, which is moved back as well.
    """
    old = directory / OLD / output.name
    old.parent.mkdir()
    try:
        output.rename(old)
        # Another program may have replaced it since it was looked at.
        if not replaces(old):
            raise FileExistsError
        move_directory(directory / NEW, output)
    except OSError:
        if os.path.lexists(old):
            restore(old, output)
        raise


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _not_moved(output: Path, error: OSError, hint: str) -> OutputError:
    reason = (
        "was created or changed by another program meanwhile, and is not replaced"
        if isinstance(error, FileExistsError)
        else f"cannot be written: {reason_of(error)}"
    )
    return OutputError(f"`{output}` {reason}", hint=hint)


def _cannot_write(output: Path, error: OSError) -> OutputError:
    return OutputError(
        f"`{output}` cannot be written: {reason_of(error)}",
        hint="choose an --output on a disk with free space and write permission",
    )
