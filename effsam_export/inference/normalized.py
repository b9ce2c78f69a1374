"""Prompts in fractions of the image's width and height."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from effsam_export.errors import PromptError, joined

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from effsam_export.spec.prompts import Prompt


def coordinates(prompts: Iterable[Prompt]) -> Iterator[float]:
    """Yield the coordinates of points and boxes."""
    for prompt in prompts:
        for point in prompt.points:
            yield from (point.x, point.y)
        yield from prompt.box or ()


def look_normalized(prompts: Iterable[Prompt]) -> bool:
    """Return whether there are coordinates, and all of them are from 0 to 1."""
    values = tuple(coordinates(prompts))
    return bool(values) and all(0 <= value <= 1 for value in values)


def to_pixels(prompt: Prompt, size: tuple[int, int]) -> Prompt:
    """Return a prompt in fractions as one in pixels of an image of (height, width).

    The fraction 1 of a point is the end of the last pixel, which still belongs to the image.

    Raises:
        PromptError: A coordinate is not from 0 to 1.
    """
    wrong = [
        f"coordinate {v:g} is not from 0 to 1" for v in coordinates([prompt]) if not 0 <= v <= 1
    ]
    if wrong:
        raise PromptError(
            joined(wrong),
            hint="with --normalized, coordinates are fractions of the image's width and height",
        )
    height, width = size
    box = prompt.box
    return replace(
        prompt,
        points=tuple(
            replace(
                p,
                x=min(p.x * width, math.nextafter(width, 0)),
                y=min(p.y * height, math.nextafter(height, 0)),
            )
            for p in prompt.points
        ),
        box=None
        if box is None
        else (box[0] * width, box[1] * height, box[2] * width, box[3] * height),
    )
