"""Compare every slot of a graph that takes several images in one call (`--batch`).

The slots hold different images, so that a graph that mixes them, or returns them in another order,
fails. PyTorch's outputs for each image are those of the image alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from effsam_export.parity.comparison import compare_graphs, run_graphs
from effsam_export.spec.prompts import Sample

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from effsam_export.parity.comparison import Sides
    from effsam_export.parity.results import ComparisonResult
    from effsam_export.spec.batches import Batch
    from effsam_export.spec.model import ComponentSpec, ModelSpec
    from effsam_export.spec.tensors import Feeds

    Image = NDArray[np.uint8]

DYNAMIC_SIZES = (1, 2)
"""Numbers of images with which a dynamic batch is compared; `effsam run` feeds one."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """The images of one call of a graph.

    Attributes:
        images: One for each slot, RGB uint8 HxWx3.
        own: Slot of the evaluation image whose prompts are measured.
    """

    images: tuple[Image, ...]
    own: int = 0


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The outputs for one evaluation image.

    Attributes:
        reference: PyTorch's.
        outputs: The artefact's, of the image's slot; empty if the component was not exported.
        comparisons: Of all slots of all calls.
    """

    reference: Feeds
    outputs: Feeds
    comparisons: tuple[ComparisonResult, ...]


def calls(
    batch: Batch, number: int, count: int, image_at: Callable[[int], Image]
) -> tuple[Call, ...]:
    """Return the calls in which an evaluation image is compared.

    Each image has another slot, and the next images are in the slots after it. If there are more
    slots than images, they occur again, shifted sideways.

    Args:
        batch: Number of slots.
        number: Index of the evaluation image.
        count: Number of evaluation images.
        image_at: Returns the image at an index.
    """
    found = []
    for size in (batch,) if isinstance(batch, int) else DYNAMIC_SIZES:
        own, rounds = number % size, -(-size // count)
        images = []
        for slot in range(size):
            distance = (slot - own) % size
            image = image_at((number + distance) % count)
            shift = image.shape[1] * (distance // count) // rounds
            images.append(np.roll(image, shift, axis=1) if shift else image)
        found.append(Call(images=tuple(images), own=own))
    return tuple(found)


def encode(
    model: ModelSpec, spec: ComponentSpec, sides: Sides, name: str, calls: tuple[Call, ...]
) -> Encoded:
    """Run the graphs that take images, and compare each slot with PyTorch.

    Args:
        model: Specification of the model.
        spec: Its first component.
        sides: The PyTorch model and the opened graphs.
        name: Name of the evaluation image.
        calls: At least one. The outputs are those of the first.
    """
    first = calls[0]
    if spec.name not in sides.artifacts:
        reference = spec.reference(sides.module, Sample(image=first.images[first.own]))
        return Encoded(reference=reference, outputs={}, comparisons=())
    found = []
    comparisons: list[ComparisonResult] = []
    for call in calls:
        samples, count = [Sample(image=image) for image in call.images], len(call.images)
        references = [spec.reference(sides.module, sample) for sample in samples]
        feeds = joined([spec.feeds(model.preprocess, sample) for sample in samples])
        traced, lowered = run_graphs(spec, sides, feeds)
        for slot, reference in enumerate(references):
            case = name if count == 1 else f"{name}, slot {slot + 1} of {count}"
            graphs = (of_slot(traced, slot, count), of_slot(lowered, slot, count))
            comparisons += compare_graphs(spec, case, reference, *graphs)
        found.append((references[call.own], of_slot(lowered, call.own, count)))
    reference, outputs = found[0]
    return Encoded(reference=reference, outputs=outputs, comparisons=tuple(comparisons))


def joined(feeds: list[Feeds]) -> Feeds:
    """Return the inputs for several images as those of one call."""
    if len(feeds) == 1:
        return feeds[0]
    return {name: np.concatenate([f[name] for f in feeds]) for name in feeds[0]}


def of_slot(outputs: Feeds, slot: int, count: int) -> Feeds:
    """Return the outputs of one slot of `count`; a tensor of another size is left whole."""
    return {
        name: value[slot : slot + 1] if value.shape[:1] == (count,) else value
        for name, value in outputs.items()
    }
