"""Models with fixed shapes, as some targets require: one prompt, and a number of point slots."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from effsam_export.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from effsam_export.spec.model import ComponentSpec, ModelSpec
    from effsam_export.spec.prompts import Preprocess, Sample
    from effsam_export.spec.tensors import Feeds, TensorSpec

MIN_SLOTS, MAX_SLOTS = 2, 64
"""A box, or a point with its padding point, takes two slots."""

POINTS = {"point_coords", "point_labels"}
EMPTY_LABEL = -2.0
"""Equal to `models.sam.slots.EMPTY`, which needs torch."""

LABELS = "1 foreground, 0 background, 2 box top-left, 3 box bottom-right, -1 padding, -2 empty"


def for_options(model: ModelSpec, options: Mapping[str, str | int | float | bool]) -> ModelSpec:
    """Return the model for target options: with fixed shapes if they set `slots`.

    Raises:
        UsageError: The number of slots is out of range.
    """
    slots = options.get("slots")
    return model if slots is None else with_slots(model, int(slots))


def further_slots(options: Mapping[str, str | int | float | bool]) -> tuple[int, ...]:
    """Return the numbers of slots of the target option `functions`, as in `functions = "2 4"`.

    Raises:
        UsageError: Not a list of numbers, or a number is out of range or given twice.
    """
    text = str(options.get("functions", ""))
    try:
        numbers = [int(word) for word in text.replace(",", " ").split()]
    except ValueError:
        numbers = [-1]
    wrong = [n for n in numbers if not MIN_SLOTS <= n <= MAX_SLOTS]
    if wrong or len({*numbers, options.get("slots")}) != len(numbers) + 1:
        raise UsageError(
            f"functions=`{text}` has to be numbers from {MIN_SLOTS} to {MAX_SLOTS}, each once and "
            "not equal to `slots`"
        )
    return tuple(numbers)


def with_slots(model: ModelSpec, slots: int) -> ModelSpec:
    """Return the model with fixed shapes. It rejects prompts with more points than fit.

    One slot is reserved for the padding point of a prompt without a box.

    Raises:
        UsageError: The number of slots is out of range.
    """
    if not MIN_SLOTS <= slots <= MAX_SLOTS:
        raise UsageError(f"slots={slots} is not from {MIN_SLOTS} to {MAX_SLOTS}")
    components = tuple(c if c.fixed is None else c.fixed(c, slots) for c in model.components)
    prompts = model.prompts
    if prompts.max_points is None and components != model.components:
        prompts = replace(prompts, max_points=slots - 1, slots=slots)
    return replace(model, components=components, prompts=prompts)


def fixed_tensors(tensors: tuple[TensorSpec, ...], slots: int) -> tuple[TensorSpec, ...]:
    """Return tensor contracts with numbers instead of `prompts` and `points`."""
    sizes = {"prompts": 1, "points": slots}
    return tuple(
        replace(t, shape=tuple(sizes[s] if isinstance(s, str) else s for s in t.shape))
        for t in tensors
    )


def one_prompt(component: ComponentSpec, slots: int) -> ComponentSpec:
    """Return a decoder for one prompt whose model already has fixed slots."""
    return replace(
        component,
        inputs=fixed_tensors(component.inputs, slots),
        outputs=fixed_tensors(component.outputs, slots),
        example=partial(_first_prompt, component.example),
        fixed=None,
    )


def empty_slots(component: ComponentSpec, slots: int) -> ComponentSpec:
    """Return SAM's decoder for one prompt; trailing slots may be empty."""
    inputs = tuple(
        replace(t, description=LABELS) if t.name == "point_labels" else t
        for t in fixed_tensors(component.inputs, slots)
    )
    return replace(
        component,
        inputs=inputs,
        outputs=fixed_tensors(component.outputs, slots),
        wrap=partial(_wrap, component.wrap),
        example=partial(_slotted_example, component.example, slots),
        feeds=partial(_slotted_feeds, component.feeds, slots),
        fixed=None,
    )


def _wrap(wrap: Callable[[nn.Module], nn.Module], module: nn.Module) -> nn.Module:
    from effsam_export.models.sam.slots import with_empty_slots

    return with_empty_slots(wrap(module))


def _first_prompt(example: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    return {name: tensor[:1] for name, tensor in example().items()}


def _slotted_example(example: Callable[[], Mapping[str, Any]], slots: int) -> Mapping[str, Any]:
    import torch

    labels = torch.full((1, slots), EMPTY_LABEL)
    labels[0, :2] = 1.0
    return {
        **_first_prompt(example),
        "point_coords": torch.zeros(1, slots, 2),
        "point_labels": labels,
    }


def _slotted_feeds(
    feeds: Callable[[Preprocess, Sample], Feeds], slots: int, preprocess: Preprocess, sample: Sample
) -> Feeds:
    """Return the dynamic decoder's inputs, padded with empty slots at (0, 0)."""
    import numpy as np

    tight = feeds(preprocess, sample)
    missing = slots - tight["point_labels"].shape[1]
    assert missing >= 0, "longer prompts are rejected by the prompt check"
    return {
        **tight,
        "point_coords": np.pad(tight["point_coords"], ((0, 0), (0, missing), (0, 0))),
        "point_labels": np.pad(
            tight["point_labels"], ((0, 0), (0, missing)), constant_values=EMPTY_LABEL
        ),
    }
