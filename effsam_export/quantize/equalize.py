"""Outlier channels moved out of activations into weights, where each has room.

Given: a layer norm whose result one linear layer reads; some channels are a hundred times others,
       some lie all on one side of zero
Result: the norm's weight and bias divided by a factor for each channel, the layer's weights by
which that channel is multiplied, times it; the middle of each channel's range taken from the norm's
bias, where it has one, and put into the layer's bias: the same product, and one INT8 scale fits all
channels

The same with the values of an attention in place of the norm: what the projection reads are their
means, with weights that sum to one.

Factors: max|activation|^s / max|weight|^(1 - s), Xiao et al., SmoothQuant, arXiv 2211.10438; the
shift: Wei et al., Outlier Suppression+, arXiv 2304.09145. On MobileSAM's encoder, INT8 activations
alone, 19 photographs that neither calibrate nor judge: -40.2 dB with norms alone, s = 0.7 and no
shift; -42.6 dB with values too, s = 0.85 and the shift.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from effsam_export.errors import CheckFailed
from effsam_export.quantize.rounding import columns, watched

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from effsam_export.spec.int8 import Equalization

SMALLEST = 1e-5
"""Below it a channel counts as silent: a factor from it would be noise."""
TOLERANCE = 1e-3
"""Largest change of an output, as a share of its deviation, that is rounding and no mistake."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A module that makes channels and the linear layer that reads them, by their paths."""

    source: str
    layer: str
    alpha: float
    values: bool


def pairs(module: nn.Module, wanted: Iterable[Equalization]) -> list[Pair]:
    """What each entry stands for in a module.

    Raises:
        CheckFailed: A pair is in no block, or is not a norm and a layer of its size, or not an
            attention and its projection.
    """
    paths = dict(module.named_modules())
    found: list[Pair] = []
    problems: list[str] = []
    for entry in wanted:
        asked = entry.norm or entry.values
        before = len(found) + len(problems)
        for path in paths:
            block = path.removesuffix(asked)
            layer = block + entry.layer
            if path == block or (block and not block.endswith(".")) or layer not in paths:
                continue
            fault = (_no_values if entry.values else _no_norm)(module, path, paths[layer])
            if fault:
                problems.append(f"`{path}` and `{layer}`: {fault}")
            else:
                found.append(
                    Pair(
                        source=path,
                        layer=layer,
                        alpha=entry.alpha,
                        values=bool(entry.values),
                    )
                )
        if len(found) + len(problems) == before:
            problems.append(f"no block has `{asked}` and `{entry.layer}`")
    if problems:
        raise CheckFailed(f"channels cannot be equalized: {'; '.join(problems)}")
    return found


def _no_norm(module: nn.Module, path: str, layer: nn.Module) -> str:
    weight = getattr(module.get_submodule(path), "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 1:
        return "the first has no weight for each channel"
    if not isinstance(layer, nn.Linear):
        return "the second is no linear layer"
    if layer.in_features != len(weight):
        return f"the first has {len(weight)} channels, the second takes {layer.in_features}"
    return ""


def _no_values(module: nn.Module, path: str, layer: nn.Module) -> str:
    qkv, heads = module.get_submodule(path), _heads(module, path)
    if not isinstance(qkv, nn.Linear) or not isinstance(layer, nn.Linear):
        return "they are no two linear layers"
    if any(getattr(linear, "bias", None) is None for linear in (qkv, layer)):
        return "they have no bias"
    if not heads or qkv.out_features != 3 * layer.in_features or layer.in_features % heads:
        return (
            f"the first makes {qkv.out_features} numbers for {heads} heads, which are not queries, "
            f"keys and values for the {layer.in_features} that the second takes"
        )
    return ""


def _heads(module: nn.Module, path: str) -> int:
    count: object = getattr(module.get_submodule(path.rpartition(".")[0]), "num_heads", None)
    return count if isinstance(count, int) else 0


def apply(
    module: nn.Module, wanted: Iterable[Equalization], samples: Sequence[Sequence[Tensor]]
) -> None:
    """Equalize a module in place.

    Args:
        module: In eval mode; shares no parameter with any other.
        wanted: Which norms or attentions, and layers.
        samples: Inputs of the module, the first of which also judges the result.

    Raises:
        CheckFailed: As `pairs`; or the module computes something else afterwards, because a norm's
            result goes elsewhere too, or is padded with zeros behind it, or because queries, keys
            and values are in another order.
    """
    chosen = pairs(module, wanted)
    ranges: dict[str, tuple[Tensor, Tensor]] = {}

    def collect(name: str, layer: nn.Module, given: Tensor) -> None:
        inputs = columns(layer, given)
        low, high = inputs.amin(0), inputs.amax(0)
        if name in ranges:
            low = torch.minimum(ranges[name][0], low)
            high = torch.maximum(ranges[name][1], high)
        ranges[name] = low, high

    with torch.no_grad():
        before = _outputs(module(*samples[0]))
        with watched(module, [pair.layer for pair in chosen], collect):
            for sample in samples:
                module(*sample)
        for pair in chosen:
            if pair.layer in ranges:
                _move(module, pair, *ranges[pair.layer])
        after = _outputs(module(*samples[0]))
    moved = max(
        float((a - b).abs().max() / b.std().clamp_min(SMALLEST))
        for a, b in zip(after, before, strict=True)
    )
    if not moved <= TOLERANCE:
        raise CheckFailed(
            f"equalizing channels changes what the module computes by {moved:.2g} deviations: "
            "something else reads what the first of a pair makes, or its rows are in another order"
        )


def _outputs(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else value


def _move(module: nn.Module, pair: Pair, low: Tensor, high: Tensor) -> None:
    source, layer = module.get_submodule(pair.source), module.get_submodule(pair.layer)
    weight, bias, origin = layer.weight, layer.bias, getattr(source, "bias", None)
    assert isinstance(weight, Tensor)
    middle = torch.zeros_like(low)
    # A source without a bias keeps its middle: what fills a window up is zero behind it.
    if isinstance(bias, Tensor) and isinstance(origin, Tensor):
        middle = (low + high) / 2
        _put(layer, "bias", bias + weight @ middle)
    factor = torch.maximum(high - middle, middle - low).clamp_min(SMALLEST) ** pair.alpha
    factor = factor / weight.abs().amax(0).clamp_min(SMALLEST) ** (1 - pair.alpha)
    # Around one: the source's weights keep their magnitude, which FP16 has to hold.
    factor = factor / factor.log().mean().exp()
    _put(layer, "weight", weight * factor)
    if pair.values:
        heads = _heads(module, pair.source)
        for name, shift in (("weight", torch.zeros_like(middle)), ("bias", middle)):
            rows = getattr(source, name).clone()
            # Query, key and value of one head after another: a view of the values alone.
            values = rows.view(heads, 3, len(middle) // heads, -1)[:, 2]
            values.sub_(shift.view(heads, -1, 1)).div_(factor.view(heads, -1, 1))
            _put(source, name, rows)
        return
    scale = source.weight
    assert isinstance(scale, Tensor)
    _put(source, "weight", scale / factor)
    if isinstance(origin, Tensor):
        _put(source, "bias", (origin - middle) / factor)


def _put(module: nn.Module, name: str, value: Tensor) -> None:
    setattr(module, name, nn.Parameter(value, requires_grad=False))
