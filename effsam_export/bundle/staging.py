"""A directory that appears whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from effsam_export.bundle.manifest import MANIFEST
from effsam_export.errors import OutputError
from effsam_export.util.files import reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator


def check_output_free(output: Path, *, force: bool) -> None:
    """Refuse a place that is taken, before any work is done.

    With `force` a bundle, or an empty directory, may be replaced; anything else never is.

    Raises:
        OutputError: Something is there.
    """
    if not output.exists() and not output.is_symlink():
        return
    if output.is_symlink() or not output.is_dir():
        raise OutputError(
            f"`{output}` exists and is not a directory", hint="choose another --output"
        )
    if not any(output.iterdir()):
        return
    if not (output / MANIFEST).is_file():
        raise OutputError(
            f"directory `{output}` exists and is not a bundle",
            hint="choose another --output; --force only replaces bundles",
        )
    if not force:
        raise OutputError(
            f"bundle `{output}` exists already",
            hint="choose another --output, or replace it with --force",
        )


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """A scratch directory beside `output` that takes its place when the block ends well.

    Whatever happens, no scratch directory is left, and what was at `output` stays until the new
    directory is complete.

    Raises:
        OutputError: The place cannot be written (rights, a full disk).
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(
            tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent)
        )
    except OSError as error:
        raise _cannot_write(output, error) from error
    try:
        yield scratch
        scratch.chmod(0o755)  # mkdtemp makes it private
        _swap(scratch, output)
    except OSError as error:
        # What is written inside the block goes to the same disk.
        raise _cannot_write(output, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _swap(scratch: Path, output: Path) -> None:
    """Put `scratch` at `output`; the directory that was there is only removed afterwards."""
    if not output.exists():
        scratch.replace(output)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".old", dir=output.parent))
    output.replace(old)
    try:
        scratch.replace(output)
    except OSError:
        old.replace(output)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _cannot_write(output: Path, error: OSError) -> OutputError:
    return OutputError(
        f"`{output}` cannot be written: {reason_of(error)}",
        hint="choose an --output on a disk with room and with the right to write",
    )
