"""Standard output and standard error, when they are closed, full, or cannot show a character."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO

from effsam_export.errors import CONTROL, OutputError, one_line
from effsam_export.util.reasons import reason_of


def prepare() -> None:
    """Open streams that the caller closed, and let standard output show every text.

    A closed standard output becomes one that fails. Otherwise the next file that the program opens
    would take its number, and receive the output.
    """
    modes = {"stdin": os.O_RDONLY, "stdout": os.O_RDONLY, "stderr": os.O_WRONLY}
    for name, mode in modes.items():
        if getattr(sys, name) is None:
            # Takes the lowest free number, which is the one of the closed stream.
            number = os.open(os.devnull, mode)
            direction = "r" if name == "stdin" else "w"
            setattr(sys, name, open(number, direction, encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def finish() -> None:
    """Flush both streams; Python would complain of a failure after the program's end."""
    _flush(sys.stdout)
    _flush(sys.stderr)


def _flush(stream: TextIO) -> None:
    try:
        stream.flush()
    except (OSError, ValueError, AttributeError):
        _discard(stream)


def write_data(text: str) -> None:
    """Write a line to standard output. If its reader has gone, the line is dropped.

    Raises:
        OutputError: The line cannot be written, as on a full disk.
    """
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _discard(sys.stdout)
    except OSError as error:
        _discard(sys.stdout)
        raise OutputError(f"standard output cannot be written: {reason_of(error)}") from error


def write_message(text: str) -> None:
    """Write lines to standard error; a message that cannot be written is lost."""
    try:
        sys.stderr.write(f"{printable(text)}\n")
        sys.stderr.flush()
    except (OSError, AttributeError):
        _discard(sys.stderr)


def printable(text: str) -> str:
    """Return the text with control characters as escape sequences; lines and tabs stay."""
    return CONTROL.sub(lambda m: m[0] if m[0] in "\n\t" else one_line(m[0]), text)


def can_show(text: str, stream: TextIO) -> bool:
    """Return whether the encoding of a stream has all characters of a text."""
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError, AttributeError):
        return False
    return True


def _discard(stream: TextIO) -> None:
    """Send what a stream still holds, and all that follows, nowhere."""
    # A stream of a test has no descriptor.
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
