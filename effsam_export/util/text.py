"""Text from files, shown on a terminal."""

from __future__ import annotations

MAX_SHOWN = 120
"""Number of characters of a name that are shown."""


def printable(name: str) -> str:
    """Return a name without control characters and of bounded length.

    What a terminal would not show as a character becomes its escape, as `\\x1b`.
    """
    shown = name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)
