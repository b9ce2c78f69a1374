"""The range of an image's values, as `--range` and the TOML key `range` write it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from effsam_export.errors import UsageError, shown
from effsam_export.util.numbers import to_number

if TYPE_CHECKING:
    from effsam_export.imaging.pixels import ValueRange

AUTO: Final = "auto"
FULL: Final = "full"
FORM = "`auto`, `full` or `LOW,HIGH`"
MAX_VALUE = 3.4e38
"""Greatest number of a floating-point image."""


def parse_range(text: str) -> ValueRange | None:
    """Return a range of values; None if the text is not `auto`, `full` or two rising numbers."""
    if text in (AUTO, FULL):
        return AUTO if text == AUTO else FULL
    low, *others = [to_number(part) for part in text.split(",")]
    if len(others) != 1 or low is None or others[0] is None:
        return None
    return (low, others[0]) if -MAX_VALUE <= low < others[0] <= MAX_VALUE else None


def range_of_option(text: str) -> ValueRange:
    """Return the range of the option `--range`.

    Raises:
        UsageError: It is malformed.
    """
    found = parse_range(text)
    if found is None:
        raise UsageError(
            f"--range `{shown(text)}` is not {FORM}",
            hint="LOW becomes black and HIGH white: LOW has to be less than HIGH",
        )
    return found
