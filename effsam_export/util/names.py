"""The rule for names from configuration that become names of files."""

from __future__ import annotations

import unicodedata

MAX_BYTES = 100
FORBIDDEN = '/\\:*?"<>|'
"""Separators, and what Windows allows in no file name."""
JOINERS = "\u200c\u200d"
"""Part of words in Persian and Indic scripts, and of emoji."""
DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$"]
    + [f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"]
)
"""Names that open a device on Windows, with any suffix."""


def file_name_fault(name: str) -> str | None:
    """Return why a name cannot be the name of a file on every system, or None if it can.

    The reason is a predicate, as in "has more than 100 bytes".
    """
    if not name:
        return "is empty"
    if not all(c.isprintable() or c in JOINERS for c in name):
        return "has control characters or other characters that cannot be printed"
    if len(name.encode("utf-8")) > MAX_BYTES:
        return f"has more than {MAX_BYTES} bytes"
    for character in FORBIDDEN:
        if character in name:
            return f"has the character {character}"
    if name.startswith((".", " ")) or name.endswith((".", " ")):
        return "begins or ends with a dot or a space"
    if name.partition(".")[0].rstrip().casefold() in DEVICES:
        return "is reserved on Windows"
    return None


def file_key(name: str) -> str:
    """Return a text that is equal for names that are one file on macOS or Windows."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
