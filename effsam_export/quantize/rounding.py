"""Round weights to INT8 by coordinate descent (QuantEase), to minimize each layer's output error.

Rounding to nearest minimizes the error of each weight alone. Because a layer's inputs are
correlated, the error of one weight can compensate for another's. From the nearest integers on,
cyclic coordinate descent minimizes the squared error of the output over the samples. Source:
Behdin et al., QuantEase, arXiv 2309.01885.

The scale of an output channel is its largest weight over 127, as in all quantizers here. That
weight is not changed. The result is FP32 on the INT8 grid, so that each toolchain's quantizer
computes the same scales and integers.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effsam_export.errors import CheckFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

INT8_MAX = 127
"""INT8 weights are symmetric: no quantizer here uses -128."""
SWEEPS = 5
"""Largest number of passes over all inputs of a layer; most converge in three."""
BLOCK = 128
"""Number of inputs that are processed before the gradients of all others are updated."""
MAX_PRODUCTS = 23_000_000_000
"""Largest number of products for a layer's second moments of one sample.

It is the number for MobileSAM's neck: 4096 inputs of 2304 values. Layers with more, at high
resolution, are sampled."""
DAMPING = 0.1
"""Share of the mean second moment that is added to the diagonal.

A larger value fits the samples less closely, and other images better."""


def round_to_grid(weight: Tensor, moment: Tensor) -> Tensor:
    """Round a layer's weights to the INT8 grid of each output channel.

    Args:
        weight: FP32, output channels first.
        moment: KxK float64: the sum of x xT over the layer's inputs x. K is the number of weights
            of an output channel, in their order.

    Returns:
        Rounded weights of the same shape; the largest of each channel is unchanged.
    """
    damping = DAMPING * moment.diagonal().mean()
    damped = moment + damping * torch.eye(len(moment), dtype=torch.double)
    # Inputs with the largest moments first; one row for each input, because the loop reads rows.
    order = damped.diagonal().argsort(descending=True)
    damped, target = damped[order][:, order], weight.flatten(1).double().T[order]
    step = (target.abs().amax(0) / INT8_MAX).clamp_min(1e-12)
    fixed = torch.zeros_like(target, dtype=torch.bool)
    fixed[target.abs().argmax(0), torch.arange(target.shape[1])] = True
    integers = (target / step).round()
    # Half the gradient of the squared error by each weight, updated with every change.
    slope = damped @ (integers * step - target)
    for _ in range(SWEEPS):
        before = integers.clone()
        for begin in range(0, len(order), BLOCK):
            own = slice(begin, begin + BLOCK)
            near, here = damped[own, own], slope[own]
            for row, (value, keep) in enumerate(zip(integers[own], fixed[own], strict=True)):
                curve = near[row, row]
                if curve <= 0:
                    continue
                best = (value - here[row] / (curve * step)).round().clamp(-INT8_MAX, INT8_MAX)
                change = torch.where(keep, 0.0, best - value)
                if change.any():
                    value += change
                    here += near[:, row, None] * (change * step)
            # One matrix product updates the gradients of all other inputs for the whole block.
            moved = (integers[own] - before[own]) * step
            some = moved.any(1)
            coupling = damped[own][some]
            slope[:begin] += coupling[:, :begin].T @ moved[some]
            slope[begin + BLOCK :] += coupling[:, begin + BLOCK :].T @ moved[some]
        if torch.equal(before, integers):
            break
    integers, step = integers[order.argsort()].T, step[:, None]
    return (integers * step).float().contiguous().view_as(weight)


def second_moments(
    module: nn.Module, names: Iterable[str], samples: Iterable[Sequence[Tensor]]
) -> dict[str, Tensor]:
    """Return the sum of x xT over the inputs x of each layer that is called, KxK float64.

    If the inputs of one sample need more than `MAX_PRODUCTS` products, a random subset of them is
    used, from a fixed seed.

    Args:
        module: Called with each sample; in eval mode.
        names: Paths of linear layers and ungrouped convolutions.
        samples: Inputs of the module.
    """
    moments: dict[str, Tensor] = {}

    def collect(name: str, layer: nn.Module, given: Tensor) -> None:
        inputs = columns(layer, given)
        enough = max(1, MAX_PRODUCTS // inputs.shape[1] ** 2)
        if len(inputs) > enough:
            random = torch.Generator().manual_seed(len(inputs))
            inputs = inputs[torch.randperm(len(inputs), generator=random)[:enough]]
        product = (inputs.T @ inputs).double()
        moments[name] = moments[name] + product if name in moments else product

    with torch.no_grad(), record_inputs(module, names, collect):
        for sample in samples:
            module(*sample)
    return moments


def columns(layer: nn.Module, given: Tensor) -> Tensor:
    """Return the inputs of a layer's products, NxK, in the order of its flattened weights."""
    if isinstance(layer, nn.Linear):
        return given.reshape(-1, given.shape[-1])
    assert isinstance(layer, nn.Conv2d)
    if isinstance(layer.padding, str):
        raise CheckFailed(
            f"cannot round a convolution with `{layer.padding}` padding by coordinate descent",
            hint='set `rounding = "nearest"` for the component in its recipe',
        )
    patches = F.unfold(
        given,
        layer.kernel_size,
        dilation=layer.dilation,
        padding=layer.padding,
        stride=layer.stride,
    )
    return patches.transpose(1, 2).reshape(-1, patches.shape[1])


@contextmanager
def record_inputs(
    module: nn.Module, names: Iterable[str], callback: Callable[[str, nn.Module, Tensor], None]
) -> Iterator[None]:
    """Inside the context, call `callback` with path, layer and first input of each layer call."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda layer, given: callback(name, layer, given[0].detach())

    handles = [module.get_submodule(n).register_forward_pre_hook(hook(n)) for n in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
