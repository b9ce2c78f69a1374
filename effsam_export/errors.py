"""The errors that this package raises on purpose, and their exit codes on the command line.

::

    EffsamError
    ├── CheckFailed          1   the result of a check did not pass (parity, verify, lint, diff)
    ├── UsageError           2   an input, option or configuration is wrong
    │   ├── UnknownNameError     a model, target or recipe that does not exist
    │   ├── ImageError           an image that is missing or cannot be read
    │   ├── PromptError          a prompt that is malformed, outside the image or not supported
    │   ├── CheckpointError      a weight file that cannot be read or has the wrong content
    │   ├── DownloadError        no source provided the file with the pinned hash
    │   ├── OutputError          an output path that exists already or cannot be written
    │   └── BundleError          a directory or file that is not an intact bundle
    └── ToolchainMissing     3   a required package is not installed

A traceback on the command line is a bug in this package.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_SHOWN = 120
"""Characters of a name or value in a message."""
MAX_JOINED = 20
"""Problems that a message names; the others are counted."""
NEXT_LINE = "\n  "
"""Begins each further line of a message."""
CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Characters that change a terminal, the order of the text or the number of its lines."""


def one_line(text: str) -> str:
    """Return a text with its control characters and line breaks as escape sequences."""
    return CONTROL.sub(
        lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text
    )


def shown(value: object) -> str:
    """Return a name or value from outside for a message: short, on one line, printable."""
    try:
        text = str(value)
    except ValueError:
        # Python does not print an integer of over 4300 digits.
        return "a number with thousands of digits"
    text = text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def joined(problems: Iterable[str]) -> str:
    """Return problems as one sentence: each once, and those beyond `MAX_JOINED` as a number."""
    unique = list(dict.fromkeys(problems))
    more = len(unique) - MAX_JOINED
    return "; ".join(unique[:MAX_JOINED] + ([f"and {more} more problems"] if more > 0 else []))


class EffsamError(Exception):
    """Base class: a message that states the problem, and an optional hint for the user.

    Paths and names may contain line breaks and other control characters; these become escape
    sequences.

    Args:
        message: What is wrong, in one line. Lower case, no full stop, names in backticks.
        lines: Further lines, which the message shows indented.
        hint: What the user can do about it, in one line of the same style.
    """

    exit_code = 2

    def __init__(self, message: str, *, lines: Iterable[str] = (), hint: str | None = None) -> None:
        self.message = NEXT_LINE.join(map(one_line, (message, *lines)))
        self.hint = None if hint is None else one_line(hint)
        super().__init__(self.message)


class CheckFailed(EffsamError):
    """The result of a check did not pass: parity, verify, lint or diff."""

    exit_code = 1


class UsageError(EffsamError):
    """An input, an option or the configuration is wrong."""


class UnknownNameError(UsageError):
    """A model, target, precision or recipe that does not exist; the hint suggests similar names."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name[:MAX_SHOWN], names, n=2, cutoff=0.5)
        choice = " or ".join(f"`{n}`" for n in near)
        hint = f"did you mean {choice}?" if near else f"known: {', '.join(names)}"
        super().__init__(f"unknown {kind} `{shown(name)}`", hint=hint)


class ImageError(UsageError):
    """An image that is missing or cannot be read."""


class PromptError(UsageError):
    """A prompt that is malformed, outside the image, or not supported by the model."""


class CheckpointError(UsageError):
    """A weight file that cannot be read or has the wrong content."""


class DownloadError(UsageError):
    """No source provided the file with the pinned hash."""


class OutputError(UsageError):
    """An output path that exists already or cannot be written."""


class BundleError(UsageError):
    """A directory or file that is not an intact bundle."""


class ToolchainMissing(EffsamError):
    """A required package is not installed.

    Args:
        what: What needs the package, as the subject of the message.
        package: Name of the missing package.
        extra: Extra of `effsam-export` that installs it.
    """

    exit_code = 3

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(
            f"{what} needs a package that is not installed: `{package}`",
            hint=f'pip install -e ".[{extra}]" in the checkout of effsam-export',
        )
