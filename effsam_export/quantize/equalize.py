"""Equalize channels: move activation outliers into the weights that read them (SmoothQuant).

Given: a layer norm whose output one linear layer reads. Some channels are a hundred times larger
       than others, or entirely on one side of zero.
Result: each channel is divided by a factor in the norm's weight and bias, and multiplied by it in
        the layer's weights. The centre of its range moves from the norm's bias to the layer's. The
        product is the same, and one INT8 scale fits all channels.

The values of an attention can take the place of the norm. Its projection reads their weighted
means, whose weights sum to one.

Factors: max|activation|^alpha / max|weight|^(1 - alpha). Source: Xiao et al., SmoothQuant, arXiv
2211.10438. Shifts: Wei et al., Outlier Suppression+, arXiv 2304.09145.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from effsam_export.errors import CheckFailed
from effsam_export.quantize.rounding import columns, record_inputs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from effsam_export.spec.int8 import Equalization

SMALLEST = 1e-5
"""Smallest channel magnitude that factors are computed from."""
TOLERANCE = 1e-3
"""Largest change of an output by rounding, as a share of its standard deviation."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Paths of a module that computes channels and of the linear layer that reads them."""

    source: str
    layer: str
    alpha: float
    values: bool


def pairs(module: nn.Module, entries: Iterable[Equalization]) -> list[Pair]:
    """Return all pairs of a module that the entries select.

    Raises:
        CheckFailed: No block has a pair, or a pair is not a norm and a layer of its size, or not an
            attention and its projection.
    """
    paths = dict(module.named_modules())
    selected: list[Pair] = []
    problems: list[str] = []
    for entry in entries:
        source = entry.norm or entry.values
        before = len(selected) + len(problems)
        for path in paths:
            block = path.removesuffix(source)
            layer = block + entry.layer
            if path == block or (block and not block.endswith(".")) or layer not in paths:
                continue
            fault = (_values_fault if entry.values else _norm_fault)(module, path, paths[layer])
            if fault:
                problems.append(f"`{path}` and `{layer}`: {fault}")
            else:
                selected.append(
                    Pair(
                        source=path,
                        layer=layer,
                        alpha=entry.alpha,
                        values=bool(entry.values),
                    )
                )
        if len(selected) + len(problems) == before:
            problems.append(f"no block has `{source}` and `{entry.layer}`")
    if problems:
        raise CheckFailed(f"channels cannot be equalized: {'; '.join(problems)}")
    return selected


def _norm_fault(module: nn.Module, path: str, layer: nn.Module) -> str:
    weight = getattr(module.get_submodule(path), "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 1:
        return "the first has no weight for each channel"
    if not isinstance(layer, nn.Linear):
        return "the second is not a linear layer"
    if layer.in_features != len(weight):
        return f"the first has {len(weight)} channels, the second takes {layer.in_features}"
    return ""


def _values_fault(module: nn.Module, path: str, layer: nn.Module) -> str:
    qkv, heads = module.get_submodule(path), _heads(module, path)
    if not isinstance(qkv, nn.Linear) or not isinstance(layer, nn.Linear):
        return "they are not two linear layers"
    if any(getattr(linear, "bias", None) is None for linear in (qkv, layer)):
        return "they have no bias"
    if not heads or qkv.out_features != 3 * layer.in_features or layer.in_features % heads:
        return (
            f"the first has {qkv.out_features} outputs for {heads} heads, which are not queries, "
            f"keys and values for the {layer.in_features} inputs of the second"
        )
    return ""


def _heads(module: nn.Module, path: str) -> int:
    count: object = getattr(module.get_submodule(path.rpartition(".")[0]), "num_heads", None)
    return count if isinstance(count, int) else 0


def apply(
    module: nn.Module, entries: Iterable[Equalization], samples: Sequence[Sequence[Tensor]]
) -> None:
    """Equalize a module in place.

    Args:
        module: In eval mode; shares no parameter with another module.
        entries: From the recipe.
        samples: Inputs of the module; the first one is also used to check the result.

    Raises:
        CheckFailed: As in `pairs`; or the output changes. Possible reasons: another layer reads
            the norm, its output is padded with zeros, or queries, keys and values are in another
            order.
    """
    chosen = pairs(module, entries)
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
        with record_inputs(module, [pair.layer for pair in chosen], collect):
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
            f"equalizing channels changes the module's output by {moved:.2g} standard deviations: "
            "another layer reads the first of a pair, or its rows are in another order"
        )


def _outputs(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else value


def _move(module: nn.Module, pair: Pair, low: Tensor, high: Tensor) -> None:
    source, layer = module.get_submodule(pair.source), module.get_submodule(pair.layer)
    weight, bias, origin = layer.weight, layer.bias, getattr(source, "bias", None)
    assert isinstance(weight, Tensor)
    middle = torch.zeros_like(low)
    # Without a bias there is no shift, because windows are padded with zeros after the norm.
    if isinstance(bias, Tensor) and isinstance(origin, Tensor):
        middle = (low + high) / 2
        _put(layer, "bias", bias + weight @ middle)
    factor = torch.maximum(high - middle, middle - low).clamp_min(SMALLEST) ** pair.alpha
    factor = factor / weight.abs().amax(0).clamp_min(SMALLEST) ** (1 - pair.alpha)
    # Geometric mean 1: the source's weights keep their magnitude, which FP16 can represent.
    factor = factor / factor.log().mean().exp()
    _put(layer, "weight", weight * factor)
    if pair.values:
        heads = _heads(module, pair.source)
        for name, shift in (("weight", torch.zeros_like(middle)), ("bias", middle)):
            rows = getattr(source, name).clone()
            # Layout per head: query, key, value. This is a view of the values.
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
