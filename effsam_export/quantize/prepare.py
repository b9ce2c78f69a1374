"""Prepare a module's weights for INT8 before tracing, so that all toolchains get the same."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from effsam_export.quantize import equalize, rounding
from effsam_export.spec.slots import in_one_slot

if TYPE_CHECKING:
    from effsam_export.spec.int8 import Quantization
    from effsam_export.spec.model import ComponentSpec


def prepare_component(
    component: ComponentSpec, module: nn.Module, quantization: Quantization
) -> ComponentSpec:
    """Return the component with equalized and rounded weights, as its recipe sets.

    Args:
        component: A component whose recipe `prepares_weights`.
        module: The loaded model; it is not changed.
        quantization: Recipe and samples.

    Returns:
        The component; its `wrap` returns the prepared module.

    Raises:
        CheckFailed: The recipe's pairs of norms and layers do not fit the model.
    """
    recipe = quantization.recipe
    prepared = deepcopy(component.wrap(module)).eval()
    # The module takes any number of images, and all slots hold the same one.
    singles = (in_one_slot(component, feeds) for feeds in quantization.feeds())
    samples = [tuple(torch.from_numpy(one[s.name]) for s in component.inputs) for one in singles]
    if recipe.equalize:
        equalize.apply(prepared, recipe.equalize, samples)
    if recipe.rounding == "coordinate-descent":
        moments = rounding.second_moments(
            prepared, _rounded_layers(prepared, quantization), samples
        )
        for name, moment in moments.items():
            layer = prepared.get_submodule(name)
            weight = layer.weight
            assert isinstance(weight, torch.Tensor)
            layer.weight = nn.Parameter(
                rounding.round_to_grid(weight.data, moment), requires_grad=False
            )
    return replace(component, wrap=lambda _: prepared)


def _rounded_layers(module: nn.Module, quantization: Quantization) -> list[str]:
    """Return the layers to round; grouped convolutions have too few weights for a choice."""
    layers = []
    for name, layer in module.named_modules():
        if not isinstance(layer, (nn.Linear, nn.Conv2d)):
            continue
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            continue
        parts = name.split(".")
        paths = ["", *(".".join(parts[: i + 1]) for i in range(len(parts)))]
        if quantization.recipe.treatment(paths) != "keep_float":
            layers.append(name)
    return layers
