"""Collect the ranges and some inputs of each layer of a module, in one pass over samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    Sample = Sequence[Tensor]

INPUTS = 1024
"""Inputs of a layer's product (a token, a patch of an image) that are kept, over all samples."""


@dataclass(kw_only=True)
class LayerInputs:
    """What one pass collects of a layer.

    Attributes:
        low, high: Smallest and largest value of its input; `low` is at most 0, `high` at least.
        output_low, output_high: The same of its output.
        macs: Multiply-accumulate operations for the first sample.
        kept: Random inputs of its product: rows of K values for a linear layer, patches of
            channels x height x width for a convolution.
        lows, highs: For each of them, the range of the row or of the image that it comes from.
    """

    low: float = 0.0
    high: float = 0.0
    output_low: float = 0.0
    output_high: float = 0.0
    macs: int = 0
    kept: list[Tensor] = field(default_factory=list)
    lows: list[Tensor] = field(default_factory=list)
    highs: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """The result of one pass over the samples.

    Attributes:
        layers: Layer -> what was collected, in the order of their first calls.
        samples: The first samples, on which recipes are simulated.
        outputs: The module's outputs for them.
    """

    layers: Mapping[str, LayerInputs]
    samples: Sequence[Sample]
    outputs: Sequence[tuple[Tensor, ...]]


def can_simulate(layer: nn.Module) -> bool:
    """Return whether a module is a linear layer, or a convolution padded with zeros."""
    if isinstance(layer, nn.Linear):
        return True
    plain = isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros"
    return plain and not isinstance(layer.padding, str)


def collect(
    module: nn.Module,
    names: Collection[str],
    samples: Iterable[Sample],
    *,
    count: int,
    simulated: int,
    on_progress: Callable[[int, int], None],
) -> Statistics:
    """Run a module over the samples once, and collect the inputs of its layers.

    Args:
        module: In eval mode.
        names: Paths of layers that `can_simulate`; those that are never called are left out.
        samples: Inputs of the module.
        count: Their number.
        simulated: Number of samples to keep, for `quantize.simulate`.
        on_progress: Called with the number of samples done, and of all.
    """
    found: dict[str, LayerInputs] = {}
    share = max(1, INPUTS // count)
    number = 0

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def add(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            if not given or (isinstance(layer, nn.Conv2d) and given[0].ndim != 4):
                # Called by keyword, or without a batch: left out like layers that are not called.
                return
            entry = found.setdefault(name, LayerInputs())
            _add(entry, layer, given[0].detach(), output.detach(), share, first=number == 0)

        return add

    handles = [module.get_submodule(n).register_forward_hook(hook(n)) for n in names]
    first: list[Sample] = []
    outputs: list[tuple[Tensor, ...]] = []
    try:
        with torch.no_grad():
            for number, sample in enumerate(samples):
                output = module(*sample)
                if number < simulated:
                    first.append(sample)
                    outputs.append(tensors_of(output))
                on_progress(number + 1, count)
    finally:
        for handle in handles:
            handle.remove()
    return Statistics(layers=found, samples=first, outputs=outputs)


def tensors_of(output: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the outputs of a module as a tuple."""
    return (output,) if isinstance(output, Tensor) else tuple(output)


def _add(
    entry: LayerInputs, layer: nn.Module, given: Tensor, output: Tensor, share: int, *, first: bool
) -> None:
    """Add one call of a layer; `share` of its inputs are kept."""
    entry.low, entry.high = min(entry.low, float(given.min())), max(entry.high, float(given.max()))
    entry.output_low = min(entry.output_low, float(output.min()))
    entry.output_high = max(entry.output_high, float(output.max()))
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if first:
        entry.macs += output.numel() * weight[0].numel()
    # The same inputs in every run.
    random = torch.Generator().manual_seed(len(entry.kept))
    if isinstance(layer, nn.Linear):
        rows = given.reshape(-1, given.shape[-1])
        chosen = rows[torch.randint(len(rows), (share,), generator=random)]
        low, high = chosen.amin(1), chosen.amax(1)
    else:
        assert isinstance(layer, nn.Conv2d)
        chosen, image = _patches(layer, given, output, share, random)
        flat = given.flatten(1)
        low, high = flat.amin(1)[image], flat.amax(1)[image]
    entry.kept.append(chosen.clone())
    entry.lows.append(low.clamp(max=0))
    entry.highs.append(high.clamp(min=0))


def _patches(
    layer: nn.Conv2d, given: Tensor, output: Tensor, count: int, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return inputs of random outputs, count x channels x kernel size, and each one's image."""
    vertical, horizontal = (int(p) for p in layer.padding)
    padded = F.pad(given, (horizontal, horizontal, vertical, vertical))
    image = torch.randint(len(given), (count,), generator=random)
    indices = []
    for axis in (0, 1):
        begin = torch.randint(output.shape[2 + axis], (count,), generator=random)
        steps = torch.arange(layer.kernel_size[axis]) * layer.dilation[axis]
        indices.append(begin[:, None] * layer.stride[axis] + steps)
    y, x = indices
    patches = padded[image[:, None, None], :, y[:, :, None], x[:, None, :]]
    return patches.permute(0, 3, 1, 2), image
