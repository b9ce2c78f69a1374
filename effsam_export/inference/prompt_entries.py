"""One prompt of a prompts file, and the checks that all kinds of files share."""

from __future__ import annotations

from dataclasses import dataclass

from effsam_export.errors import shown
from effsam_export.inference.run_records import OBJECT
from effsam_export.spec.prompts import MAX_SIDE, Point, Prompt

MAX_PROMPTS = 100_000
MAX_NAME = 1000
"""Characters of the name of an image or a category."""
Numbers = list[float] | tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class PromptEntry:
    """A prompt, and the image that it is for.

    Attributes:
        image: Name or path of the image as the file has it; None for every image of the run.
        prompt: Its coordinates as the file has them.
        category: Name of what the object is.
    """

    image: str | None
    prompt: Prompt
    category: str = OBJECT


def is_coordinate(value: object) -> bool:
    """Return whether a value is a finite number that can be a coordinate in some image."""
    # `type` and not `isinstance`, because in Python `True` is an `int`. NaN compares false.
    return type(value) in (int, float) and -MAX_SIDE <= value <= MAX_SIDE  # type: ignore[operator]


def to_point(x: float, y: float, label: object) -> Point | str:
    """Return a point, or why it is none."""
    if not (is_coordinate(x) and is_coordinate(y)):
        return f"point ({shown(x)}, {shown(y)}) has a coordinate beyond {MAX_SIDE}"
    if type(label) not in (int, float) or label not in (0, 1):
        return f"label `{shown(label)}` is neither 1 (on the object) nor 0 (off it)"
    return Point(x=float(x), y=float(y), label=int(label))


def name_fault(what: str, value: object) -> str | None:
    """Return why a value is not the name of an image or a category, or None."""
    if not isinstance(value, str) or not value:
        return f"`{what}` is not a text"
    return f"`{what}` has more than {MAX_NAME} characters" if len(value) > MAX_NAME else None
