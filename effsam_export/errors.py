"""Every error this package raises on purpose, and the exit code the command line gives it.

::

    EffsamError
    ├── CheckFailed          1   the work ran and its result did not pass (parity, verify, lint)
    ├── UsageError           2   the request cannot be met as asked: input, options, configuration
    │   ├── UnknownNameError     a model, target or recipe that does not exist
    │   ├── ImageError           a photograph that cannot be read
    │   ├── PromptError          a prompt outside the image, or one the model cannot honour
    │   ├── CheckpointError      a file that is not the checkpoint it should be
    │   ├── DownloadError        no source gave the file with the pinned hash
    │   ├── OutputError          the output place is taken, or cannot be written
    │   └── BundleError          a directory that is not an intact bundle
    └── ToolchainMissing     3   a package that the work needs is not installed

A traceback that reaches the user is a bug of this package.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class EffsamError(Exception):
    """One sentence saying what is wrong, and optionally one saying what to do.

    Args:
        message: Lower case, no full stop, names in backticks.
        hint: What the user can do about it, in the same style.
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class CheckFailed(EffsamError):
    """The work was done and its result did not pass."""

    exit_code = 1


class UsageError(EffsamError):
    """The request cannot be met as it was asked."""


class UnknownNameError(UsageError):
    """A name that is not in a table; the nearest ones are suggested, never substituted."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
        choice = " or ".join(f"`{n}`" for n in near)
        hint = f"did you mean {choice}?" if near else f"known: {', '.join(names)}"
        super().__init__(f"unknown {kind} `{name}`", hint=hint)


class ImageError(UsageError):
    """A photograph that is missing or cannot be read."""


class PromptError(UsageError):
    """A prompt that is malformed, outside the image, or that the model cannot honour."""


class CheckpointError(UsageError):
    """A file that is not the checkpoint it should be."""


class DownloadError(UsageError):
    """No source gave the file with the pinned hash."""


class OutputError(UsageError):
    """The output place is taken, or cannot be written."""


class BundleError(UsageError):
    """A directory that is not an intact bundle."""


class ToolchainMissing(EffsamError):
    """A package that the requested work needs is not installed."""

    exit_code = 3

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(
            f"{what} needs a package that is not installed: `{package}`",
            hint=f'pip install "effsam-export[{extra}]"',
        )
