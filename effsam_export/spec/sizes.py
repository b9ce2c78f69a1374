"""Sizes of the inputs and masks of a model: a square by its side, or a height and a width."""

from __future__ import annotations

Size = int | tuple[int, int]
"""Side of a square, or (height, width) of another rectangle, in pixels."""


def sides(size: Size) -> tuple[int, int]:
    """Return (height, width) of a size."""
    return (size, size) if isinstance(size, int) else size


def of_sides(height: int, width: int) -> Size:
    """Return the size of a rectangle; one number for a square."""
    return height if height == width else (height, width)


def divided(size: Size, stride: int) -> Size:
    """Return a size in cells of `stride` pixels."""
    height, width = sides(size)
    return of_sides(height // stride, width // stride)


def text_of(size: Size) -> str:
    """Return a size as text: `512`, or `1024x768` for a height of 1024 pixels."""
    return str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}"


def document(size: Size) -> int | list[int]:
    """Return a size as a JSON value of a manifest: a number, or [height, width]."""
    return size if isinstance(size, int) else list(size)


def from_document(value: float | list[int]) -> Size:
    """Return the size of a JSON value of a manifest, in which 512.0 is a whole number too."""
    return int(value) if isinstance(value, int | float) else of_sides(int(value[0]), int(value[1]))
