"""Numbers that a person types: one rule for every option.

ASCII digits with an optional sign; for a decimal number also a point and an exponent. Python's own
`int` and `float` also take `1_0`, digits of other scripts, `nan` and `inf`.
"""

from __future__ import annotations

import math
import re

WHOLE = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
MAX_LENGTH = 64
"""Characters of a decimal number, more than `repr` ever writes."""


def to_whole(text: str) -> int | None:
    """Return a whole number of at most 18 digits, or None."""
    text = text.strip(" ")
    return int(text) if WHOLE.fullmatch(text) else None


def to_number(text: str) -> float | None:
    """Return a finite decimal number, or None."""
    text = text.strip(" ")
    if len(text) > MAX_LENGTH or not DECIMAL.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None
