"""Ranges of activations, from a saved ML program run on the samples by our own evaluator.

coremltools calibrates by predictions of Core ML, which needs macOS. What it asks of them is the
least and the largest value of each tensor, and those the evaluator has too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from effsam_export.backends.coreml.mil import evaluate
from effsam_export.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from effsam_export.backends.coreml.mil.program import Program
    from effsam_export.spec.int8 import Method
    from effsam_export.spec.tensors import Feeds

Ranges = dict[str, tuple[float, float]]
"""Value of the program -> its least and largest value; zero lies between."""

QUANTILE = 1e-5
SHARES = tuple(share / 20 for share in range(6, 21))
"""Parts of the whole range that `mse` tries."""
LARGEST = 500.0
"""coremltools works out the zero point of a range in FP16, where 128 times more is infinite."""
LEAST_SPAN = 255 * 2.0**-18
"""A scale is stored in FP16, which has six bits left for one of this span and none for one of 0.
A tensor that is zero on every sample has no span at all."""


def measure(
    program: Program, values: Iterable[str], feeds: Callable[[], Iterable[Feeds]], method: Method
) -> Ranges:
    """The range of each of `values`, over all samples.

    Args:
        program: In floating point.
        values: Names of inputs or results.
        feeds: Gives the samples from the first on; they are not kept.
        method: See `plan.Int8Recipe`.

    Raises:
        UsageError: There are no samples, or a range is past what coremltools can quantize.
        CheckFailed: The program does not give one of the values, or a value is not finite.
    """
    count, wanted = sum(1 for _ in feeds()), frozenset(values)
    if not count:
        raise UsageError("there are no calibration samples, and activations are to be INT8")
    tails = _Tails(share=QUANTILE if method == "percentile" else 0.0, samples=count)
    _visit(program, wanted, feeds(), tails.add)
    lost = sorted(wanted - set(tails.low))
    if lost:
        raise CheckFailed(f"the program does not compute `{lost[0]}`, whose range is wanted")
    ranges = {name: tails.range(name) for name in sorted(wanted)}
    if method == "mse":
        errors = _Errors(ranges=ranges)
        _visit(program, wanted, feeds(), errors.add)
        ranges = {name: errors.best(name) for name in ranges}
    _check(ranges)
    return {name: (low, max(high, low + LEAST_SPAN)) for name, (low, high) in ranges.items()}


def _visit(
    program: Program,
    wanted: frozenset[str],
    samples: Iterable[Feeds],
    add: Callable[[str, Tensor], None],
) -> None:
    def watch(name: str, value: Tensor) -> None:
        if name in wanted:
            add(name, value.float().flatten())

    for sample in samples:
        evaluate.run(program, sample, watch=watch)


@dataclass(kw_only=True)
class _Tails:
    """The least and the largest values of each tensor, as many as a quantile needs.

    Attributes:
        share: Of the values that lie outside the range at either end.
        samples: How many will come.
    """

    share: float
    samples: int
    low: dict[str, Tensor] = field(default_factory=dict)
    high: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, values: Tensor) -> None:
        # All samples are of one shape, so that the first says how many values there will be.
        kept = min(len(values), math.floor(self.share * len(values) * self.samples) + 1)
        low, high = values, values
        if name in self.low:
            kept = len(self.low[name])
            low = torch.cat((values, self.low[name]))
            high = torch.cat((values, self.high[name]))
        # One value is found much faster than several.
        one = kept == 1
        self.low[name] = low.amin()[None] if one else low.topk(kept, largest=False).values
        self.high[name] = high.amax()[None] if one else high.topk(kept).values

    def range(self, name: str) -> tuple[float, float]:
        low, high = float(self.low[name][-1]), float(self.high[name][-1])
        if not (math.isfinite(low) and math.isfinite(high)):
            raise CheckFailed(f"`{name}` is not finite on a calibration sample")
        return min(low, 0.0), max(high, 0.0)


@dataclass(kw_only=True)
class _Errors:
    """Squared rounding errors of each tensor, for a row of ranges."""

    ranges: Ranges
    sums: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, values: Tensor) -> None:
        low, high = self.ranges[name]
        sums = self.sums.setdefault(name, [0.0] * len(SHARES))
        for index, share in enumerate(SHARES):
            error = rounded(values, low * share, high * share) - values
            sums[index] += float(error.square().sum(dtype=torch.float64))

    def best(self, name: str) -> tuple[float, float]:
        sums, (low, high) = self.sums[name], self.ranges[name]
        share = SHARES[sums.index(min(sums))]
        return low * share, high * share


def rounded(values: Tensor, low: float, high: float) -> Tensor:
    """Values as INT8 of a range gives them back; a range of nothing gives zeros."""
    scale = (high - low) / 255
    if scale == 0:
        return torch.zeros_like(values)
    zero = round(-128 - low / scale)
    places = (torch.round(values / scale) + zero).clamp(-128, 127)
    return (places - zero) * scale


def _check(ranges: Ranges) -> None:
    wide = [name for name, ends in ranges.items() if max(map(abs, ends)) > LARGEST]
    if wide:
        low, high = ranges[wide[0]]
        raise UsageError(
            f"`{wide[0]}` runs from {low:.4g} to {high:.4g}, too far for coremltools to quantize",
            hint="give the modules it goes into the treatment `weight_only`",
        )
