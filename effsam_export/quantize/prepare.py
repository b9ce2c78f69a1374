"""A module made ready for INT8 before it is traced, so that every toolchain gets the same."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from effsam_export.quantize import equalize, rounding

if TYPE_CHECKING:
    from effsam_export.spec.int8 import Quantization
    from effsam_export.spec.model import ComponentSpec


def prepared(
    component: ComponentSpec, module: nn.Module, quantization: Quantization
) -> ComponentSpec:
    """A component whose export form is ready to be quantized, as its recipe asks.

    Args:
        component: One whose recipe `prepares` something.
        module: The loaded model, which stays as it is.
        quantization: Recipe and samples.

    Returns:
        Its `wrap` gives the ready module.

    Raises:
        CheckFailed: The recipe's pairs of norms and layers do not fit the model.
    """
    recipe = quantization.recipe
    ready = deepcopy(component.wrap(module)).eval()
    samples = [
        tuple(torch.from_numpy(feeds[s.name]) for s in component.inputs)
        for feeds in quantization.feeds()
    ]
    if recipe.equalize:
        equalize.apply(ready, recipe.equalize, samples)
    if recipe.rounding == "coordinate-descent":
        moments = rounding.second_moments(ready, _rounded(ready, quantization), samples)
        for name, moment in moments.items():
            layer = ready.get_submodule(name)
            weight = layer.weight
            assert isinstance(weight, torch.Tensor)
            layer.weight = nn.Parameter(rounding.on_grid(weight.data, moment), requires_grad=False)
    return replace(component, wrap=lambda _: ready)


def _rounded(module: nn.Module, quantization: Quantization) -> list[str]:
    """Layers whose weights become INT8; a depthwise convolution has too few to choose among."""
    found = []
    for name, layer in module.named_modules():
        if not isinstance(layer, (nn.Linear, nn.Conv2d)):
            continue
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            continue
        parts = name.split(".")
        paths = ["", *(".".join(parts[: i + 1]) for i in range(len(parts)))]
        if quantization.recipe.treatment(paths) != "keep_float":
            found.append(name)
    return found
