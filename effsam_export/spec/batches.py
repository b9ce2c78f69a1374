"""Number of images that a model's first graph takes in one call: a number, or any."""

from __future__ import annotations

IMAGE = "image"
"""Name of the input with the images, N x 3 x height x width."""
Batch = int | str
"""A number of images, or `ANY`."""
ANY = "images"
"""Name of the first axis of a graph that takes any number of images."""
DYNAMIC = "dynamic"
"""How options and files write `ANY`."""


def document(batch: Batch) -> int | str:
    """Return a batch as a JSON value of a manifest: a number, or `dynamic`."""
    return batch if isinstance(batch, int) else DYNAMIC


def from_document(value: int | str) -> Batch:
    """Return the batch of a JSON value of a manifest."""
    return value if isinstance(value, int) else ANY


def text_of(batch: Batch) -> str:
    """Return a batch as text: `4`, or `dynamic`."""
    return str(document(batch))
