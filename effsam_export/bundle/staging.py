"""A directory that is replaced as a whole: complete, or unchanged."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from effsam_export.bundle.manifest import MANIFEST
from effsam_export.errors import OutputError
from effsam_export.util.reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator


def check_output_free(output: Path, *, force: bool) -> None:
    """Refuse an output path that exists, before any work is done.

    Args:
        output: The directory to write.
        force: Allow a bundle at this path. An empty directory is always allowed, and anything else
            never.

    Raises:
        OutputError: The path is not free.
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
    """Yield a staging directory that replaces `output` when the block ends without an error.

    After an error `output` is unchanged. The staging directory lies beside `output`, and is always
    removed.

    Raises:
        OutputError: The directory cannot be written (permissions, a full disk).
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(
            tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent)
        )
    except OSError as error:
        raise _cannot_write(output, error) from error
    try:
        yield staging
        staging.chmod(0o755)  # mkdtemp makes it private
        _swap(staging, output)
    except OSError as error:
        # The block writes to the same disk, so its errors are those of the output too.
        raise _cannot_write(output, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _swap(staging: Path, output: Path) -> None:
    """Move `staging` to `output`, and remove the old directory afterwards."""
    if not output.exists():
        staging.replace(output)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".old", dir=output.parent))
    output.replace(old)
    try:
        staging.replace(output)
    except OSError:
        old.replace(output)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _cannot_write(output: Path, error: OSError) -> OutputError:
    return OutputError(
        f"`{output}` cannot be written: {reason_of(error)}",
        hint="choose an --output on a disk with free space and write permission",
    )
