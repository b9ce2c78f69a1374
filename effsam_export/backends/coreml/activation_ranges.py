"""Measure activation ranges of a saved ML program by running it on calibration samples.

coremltools measures them with predictions of Core ML, which needs macOS. Here the evaluator in
`mil` runs the program instead.
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
"""Name of a value -> its minimum and maximum; the minimum is at most 0, the maximum at least 0."""

QUANTILE = 1e-5
"""Share of the values that `percentile` cuts off at each end."""
SHARES = tuple(share / 20 for share in range(6, 21))
"""Shares of the min-max range that `mse` compares."""
MAX_MAGNITUDE = 500.0
"""Maximum magnitude of a range: coremltools computes 128 times it in FP16 (maximum 65504)."""
MIN_SPAN = 255 * 2.0**-18
"""Minimum span of a range. Its scale is stored in FP16, which keeps six bits of 2**-18.

A tensor that is zero on every sample would have the scale 0.
"""


def measure(
    program: Program, values: Iterable[str], feeds: Callable[[], Iterable[Feeds]], method: Method
) -> Ranges:
    """Measure the range of each of `values` over all samples.

    Args:
        program: In floating point.
        values: Names of inputs or results.
        feeds: Iterates over the samples, from the first one on each call.
        method: How a range is chosen, see `Int8Recipe`.

    Raises:
        UsageError: There are no samples, or a range is too large for coremltools to quantize.
        CheckFailed: The program does not compute one of the values, or a value is not finite.
    """
    count, wanted = sum(1 for _ in feeds()), frozenset(values)
    if not count:
        raise UsageError("INT8 activations need calibration samples, and there are none")
    tails = _Tails(share=QUANTILE if method == "percentile" else 0.0, samples=count)
    _visit(program, wanted, feeds(), tails.add)
    lost = sorted(wanted - set(tails.low))
    if lost:
        raise CheckFailed(f"the program does not compute `{lost[0]}`, whose range is needed")
    ranges = {name: tails.range(name) for name in sorted(wanted)}
    if method == "mse":
        errors = _Errors(ranges=ranges)
        _visit(program, wanted, feeds(), errors.add)
        ranges = {name: errors.best(name) for name in ranges}
    _check(ranges)
    return {name: (low, max(high, low + MIN_SPAN)) for name, (low, high) in ranges.items()}


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
    """The smallest and the largest values of each tensor, as many as a quantile needs.

    Attributes:
        share: Share of the values to cut off at each end.
        samples: Number of samples that will be added.
    """

    share: float
    samples: int
    low: dict[str, Tensor] = field(default_factory=dict)
    high: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, values: Tensor) -> None:
        # All samples have one shape, so the first one gives the number of values in total.
        count = min(len(values), math.floor(self.share * len(values) * self.samples) + 1)
        low, high = values, values
        if name in self.low:
            count = len(self.low[name])
            low = torch.cat((values, self.low[name]))
            high = torch.cat((values, self.high[name]))
        # `amin` is much faster than `topk` with k = 1.
        one = count == 1
        self.low[name] = low.amin()[None] if one else low.topk(count, largest=False).values
        self.high[name] = high.amax()[None] if one else high.topk(count).values

    def range(self, name: str) -> tuple[float, float]:
        low, high = float(self.low[name][-1]), float(self.high[name][-1])
        if not (math.isfinite(low) and math.isfinite(high)):
            raise CheckFailed(f"`{name}` is not finite on a calibration sample")
        return min(low, 0.0), max(high, 0.0)


@dataclass(kw_only=True)
class _Errors:
    """Sums of squared rounding errors of each tensor, one for each of `SHARES`."""

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
    """Quantize values to INT8 by a range and dequantize them; an empty range gives zeros."""
    scale = (high - low) / 255
    if scale == 0:
        return torch.zeros_like(values)
    zero = round(-128 - low / scale)
    integers = (torch.round(values / scale) + zero).clamp(-128, 127)
    return (integers - zero) * scale


def _check(ranges: Ranges) -> None:
    wide = [name for name, ends in ranges.items() if max(map(abs, ends)) > MAX_MAGNITUDE]
    if wide:
        low, high = ranges[wide[0]]
        raise UsageError(
            f"`{wide[0]}` ranges from {low:.4g} to {high:.4g}, and coremltools quantizes at most "
            f"-{MAX_MAGNITUDE:g} to {MAX_MAGNITUDE:g}",
            hint="give the modules that read it the treatment `weight_only`",
        )
