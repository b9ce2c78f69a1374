"""Random prompts of every kind, to calibrate a decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.spec.prompts import Point, Prompt

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from effsam_export.spec.prompts import PromptSupport

KINDS = ("point", "points", "box", "both")


def sample(
    size: tuple[int, int], support: PromptSupport, count: int, generator: np.random.Generator
) -> Iterator[Prompt]:
    """Yield prompts in pixels of an image, alternating between the supported kinds.

    Args:
        size: Height and width of the image.
        support: The prompts that the model supports.
        count: Number of prompts.
        generator: Source of the random coordinates.
    """
    kinds = [
        k
        for k in KINDS
        if (support.box or k not in ("box", "both")) and (support.points_with_box or k != "both")
    ]
    for i in range(count):
        kind = kinds[i % len(kinds)]
        box = _box(size, generator) if kind in ("box", "both") else None
        yield Prompt(points=tuple(_points(kind, size, box, support, generator)), box=box)


def _box(
    size: tuple[int, int], generator: np.random.Generator
) -> tuple[float, float, float, float]:
    """Return a random box (x0, y0, x1, y1) of a tenth to two thirds of each side."""
    sides = []
    for whole in size:
        length = generator.uniform(0.1, 0.67) * whole
        start = generator.uniform(0, whole - length)
        sides.append((start, start + length))
    (y0, y1), (x0, x1) = sides
    return (x0, y0, x1, y1)


def _points(
    kind: str,
    size: tuple[int, int],
    box: tuple[float, float, float, float] | None,
    support: PromptSupport,
    generator: np.random.Generator,
) -> Iterator[Point]:
    """Yield the points of one prompt, inside `box` if there is one; a third point has label 0."""
    height, width = size
    x0, y0, x1, y1 = box or (0.0, 0.0, float(width), float(height))
    number = {"point": 1, "points": 3, "box": 0, "both": 1}[kind]
    for i in range(number):
        label = 0 if i == 2 and support.negative_points else 1
        yield Point(x=generator.uniform(x0, x1), y=generator.uniform(y0, y1), label=label)
