"""One image in a graph that takes several in a call.

Each image of a call has a slot, its index on the first axis of all tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from effsam_export.spec.model import ComponentSpec
    from effsam_export.spec.tensors import Feeds


def slots_of(component: ComponentSpec) -> int:
    """Return in how many slots of a graph one image is put: all of them, or one of any number."""
    return component.batch if isinstance(component.batch, int) else 1


def in_every_slot(component: ComponentSpec, feeds: Feeds) -> Feeds:
    """Return inputs for one image as inputs of a graph, with the image in all of its slots."""
    import numpy as np

    if (count := slots_of(component)) == 1:
        return feeds
    return {name: np.repeat(value, count, axis=0) for name, value in feeds.items()}


def in_one_slot(component: ComponentSpec, tensors: Feeds) -> Feeds:
    """Return the part of a graph's inputs or outputs that belongs to the first slot."""
    if slots_of(component) == 1:
        return tensors
    return {name: value[:1] for name, value in tensors.items()}
