"""Simulate INT8 in PyTorch: round the weights and inputs of layers as a backend's toolchain does.

The arithmetic stays FP32, on rounded values. The ranges come from `quantize.layer_inputs`.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effsam_export.quantize.ladder import Sensitivity
from effsam_export.quantize.layer_inputs import tensors_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from effsam_export.quantize.layer_inputs import LayerInputs, Statistics
    from effsam_export.quantize.rules import RoundingRules
    from effsam_export.spec.int8 import Treatment

INT8_MAX = 127
LEVELS = 255
TINY = 1e-12


def rounded_weight(layer: nn.Module) -> Tensor:
    """Return a layer's weights rounded to INT8, symmetric, a scale for each output channel."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    values = weight.detach()
    step = (values.flatten(1).abs().amax(1) / INT8_MAX).clamp_min(TINY)
    step = step.view(-1, *(1 for _ in values.shape[1:]))
    return (values / step).round() * step


def rounded(values: Tensor, low: Tensor, high: Tensor, *, symmetric: bool) -> Tensor:
    """Return values rounded to 8 bits.

    Args:
        values: Any shape.
        low: Start of the range, at most 0; of a shape that can be broadcast.
        high: End of the range, at least 0; likewise.
        symmetric: Use a range that is symmetric around zero.
    """
    if symmetric:
        step = (torch.maximum(-low, high) / INT8_MAX).clamp_min(TINY)
        return (values / step).round().clamp(-INT8_MAX, INT8_MAX) * step
    step = ((high - low) / LEVELS).clamp_min(TINY)
    zero = (-low / step).round()
    return (((values / step).round() + zero).clamp(0, LEVELS) - zero) * step


def sensitivities(
    module: nn.Module, statistics: Statistics, rules: RoundingRules
) -> tuple[Sensitivity, ...]:
    """Return how much each treatment of a target changes the product of each layer.

    Args:
        module: The module of the pass.
        statistics: What the pass collected.
        rules: Of the target's toolchain.
    """
    found = []
    for path, entry in statistics.layers.items():
        layer = module.get_submodule(path)
        weight = layer.weight
        assert isinstance(weight, Tensor)
        grouped = isinstance(layer, nn.Conv2d) and layer.groups > 1
        found.append(
            Sensitivity(
                path=path,
                weights=weight.numel(),
                macs=entry.macs,
                grouped=grouped,
                sqnr_db=_sqnr_of_treatments(layer, entry, rules, grouped=grouped),
            )
        )
    return tuple(found)


def _sqnr_of_treatments(
    layer: nn.Module, entry: LayerInputs, rules: RoundingRules, *, grouped: bool
) -> dict[Treatment, float]:
    inputs = torch.cat(entry.kept)
    weight, small = layer.weight, rounded_weight(layer)
    assert isinstance(weight, Tensor)
    product = _product(layer, inputs, weight)
    found: dict[Treatment, float] = {
        "weight_only": sqnr_db(product, _product(layer, inputs, small))
    }
    if not rules.activations or (grouped and not rules.grouped):
        return found
    if rules.dynamic:
        shape = (-1, *(1 for _ in inputs.shape[1:]))
        low, high = torch.cat(entry.lows).view(shape), torch.cat(entry.highs).view(shape)
    else:
        low, high = torch.tensor(entry.low), torch.tensor(entry.high)
    actual = _product(layer, rounded(inputs, low, high, symmetric=rules.symmetric), small)
    if rules.outputs and isinstance(layer, nn.Conv2d):
        bias = 0 if layer.bias is None else layer.bias.detach().view(-1, 1, 1)
        low, high = torch.tensor(entry.output_low), torch.tensor(entry.output_high)
        actual = rounded(actual + bias, low, high, symmetric=rules.symmetric) - bias
    found["w8a8"] = sqnr_db(product, actual)
    return found


def _product(layer: nn.Module, inputs: Tensor, weight: Tensor) -> Tensor:
    """Return a layer's product without its bias; convolutions get patches of the kernel's size."""
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(inputs, weight, groups=layer.groups).detach()
    return F.linear(inputs, weight).detach()


def sqnr_db(signal: Tensor, actual: Tensor) -> float:
    """Return 10 log10 of the power of a signal over that of its error; infinite when equal."""
    noise = float((signal.double() - actual.double()).square().sum())
    power = float(signal.double().square().sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(power / noise) if power > 0 else -math.inf


def predicted_db(
    module: nn.Module,
    statistics: Statistics,
    rules: RoundingRules,
    treatments: Mapping[str, Treatment],
    count: int | None = None,
) -> float:
    """Return the lowest SQNR of the module's outputs with these treatments, in dB.

    Args:
        module: The module of the pass.
        statistics: What the pass collected; its samples are run again.
        rules: Of the target's toolchain.
        treatments: Layer -> treatment; other layers stay in FP32.
        count: Number of samples to run; None for all.
    """
    runs = list(zip(statistics.samples, statistics.outputs, strict=True))[:count]
    with torch.no_grad(), simulated(module, statistics, rules, treatments):
        return min(
            sqnr_db(expected, actual)
            for sample, outputs in runs
            for expected, actual in zip(outputs, tensors_of(module(*sample)), strict=True)
        )


def with_gain(
    module: nn.Module, statistics: Statistics, rules: RoundingRules, layer: Sensitivity
) -> Sensitivity:
    """Return a sensitivity with its gain, from one run of the module in which this layer is INT8.

    Args:
        module: The module of the pass.
        statistics: What the pass collected.
        rules: Of the target's toolchain.
        layer: Its sensitivity without the gain.
    """
    treatment: Treatment = "w8a8"
    if "w8a8" not in layer.sqnr_db or layer.grouped:
        treatment = "weight_only"
    product = layer.sqnr_db[treatment]
    output = predicted_db(module, statistics, rules, {layer.path: treatment}, count=1)
    if output == math.inf:
        return replace(layer, gain=0.0)
    if not (math.isfinite(product) and math.isfinite(output)):
        return layer
    return replace(layer, gain=10 ** ((product - output) / 10))


@contextmanager
def simulated(
    module: nn.Module,
    statistics: Statistics,
    rules: RoundingRules,
    treatments: Mapping[str, Treatment],
) -> Iterator[None]:
    """Inside the context, layers work with rounded weights and inputs; see `predicted_db`."""
    handles, originals = [], []
    try:
        for path, treatment in treatments.items():
            layer = module.get_submodule(path)
            weight = layer.weight
            assert isinstance(weight, nn.Parameter)
            if treatment == "keep_float":
                continue
            originals.append((weight, weight.data))
            weight.data = rounded_weight(layer)
            if treatment == "w8a8":
                before, after = _hooks(statistics.layers[path], rules)
                handles.append(layer.register_forward_pre_hook(before))
                if rules.outputs and isinstance(layer, nn.Conv2d):
                    handles.append(layer.register_forward_hook(after))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for weight, values in reversed(originals):
            weight.data = values


def _hooks(
    entry: LayerInputs, rules: RoundingRules
) -> tuple[
    Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]],
    Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor],
]:
    """Return hooks that round the input and the output of a layer."""

    def before(layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values = given[0]
        low, high = torch.tensor(entry.low), torch.tensor(entry.high)
        if rules.dynamic:
            axes = -1 if isinstance(layer, nn.Linear) else (1, 2, 3)
            low = values.amin(axes, keepdim=True).clamp(max=0)
            high = values.amax(axes, keepdim=True).clamp(min=0)
        return (rounded(values, low, high, symmetric=rules.symmetric), *given[1:])

    def after(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        del layer, given
        low, high = torch.tensor(entry.output_low), torch.tensor(entry.output_high)
        return rounded(output, low, high, symmetric=rules.symmetric)

    return before, after
