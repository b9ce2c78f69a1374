"""Choose a treatment for each layer: a series of recipes from the cheapest to the most accurate.

The series begins with the cheapest treatment of each layer. Each further recipe changes one layer:
from INT8 activations to weight-only INT8, or from there to floating point. The next layer is the
one whose change removes the most rounding noise for its cost.

Noise is that of the component's outputs, relative to them, added over the layers. That ranks
changes; what a whole recipe does is predicted by `quantize.simulate` and measured by an export.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from effsam_export.spec.int8 import Optimize, Treatment

ORDER: tuple[Treatment, ...] = ("w8a8", "weight_only", "keep_float")
"""Treatments, from the one with the most rounding noise."""
BYTES: Mapping[Treatment, int] = {"w8a8": 1, "weight_only": 1, "keep_float": 2}
"""Bytes of a stored weight; what is kept in floating point is stored in FP16."""
FP32_BYTES = 4
W8A8_TIME = 0.4
"""Time of an INT8 product as a share of the FP32 product's, on a CPU with INT8 dot products."""
MIN_INT8_SHARE = 0.55
"""Minimum share of the weights in INT8; a file with under 0.5 of all its constants is refused."""
MAX_SIZE = 0.33
"""Maximum size of the weights for `accuracy`, as a share of FP32's."""
COST_OF_BYTES: Mapping[Optimize, float] = {"size": 1.0, "latency": 0.1, "accuracy": 1.0}
COST_OF_TIME: Mapping[Optimize, float] = {"size": 0.1, "latency": 1.0, "accuracy": 0.0}


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """A layer's cost, and how much rounding changes its product.

    Attributes:
        path: Path of the module in the export form.
        weights: Number of weights.
        macs: Multiply-accumulate operations for one input of the component.
        grouped: It is a grouped convolution, which INT8 activations do not make faster.
        sqnr_db: SQNR of the layer's product for each INT8 treatment that the target has, in dB.
        gain: Noise of the component's outputs, relative to them, divided by that of the product.
    """

    path: str
    weights: int
    macs: int
    grouped: bool
    sqnr_db: Mapping[Treatment, float]
    gain: float = 1.0

    def noise(self, treatment: Treatment) -> float:
        """Return the noise of the component's outputs relative to them, as a power."""
        db = self.sqnr_db.get(treatment)
        return 0.0 if db is None else float(self.gain * 10 ** (-db / 10))

    def time(self, treatment: Treatment) -> float:
        """Return the expected time, in multiply-accumulate operations of FP32."""
        faster = treatment == "w8a8" and not self.grouped
        return self.macs * (W8A8_TIME if faster else 1.0)


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One recipe of the series.

    Attributes:
        treatments: Layer -> treatment.
        size: Bytes of the weights as a share of FP32's.
        time: Expected time of the layers as a share of FP32's.
        cost: Size and time weighted for the aim of the search.
    """

    treatments: Mapping[str, Treatment]
    size: float
    time: float
    cost: float


def ladder(layers: Sequence[Sensitivity], optimize: Optimize) -> tuple[Rung, ...]:
    """Return the recipes to choose from, the cheapest first; none without layers.

    For `accuracy` no layer gets INT8 activations, and the series ends at `MAX_SIZE`. Every recipe
    has `MIN_INT8_SHARE` of the weights in INT8.

    Args:
        layers: All layers that can be quantized.
        optimize: What the cost of a recipe is.
    """
    if not layers:
        return ()
    chosen = {layer.path: _cheapest(layer, optimize) for layer in layers}
    rungs = [_rung(layers, chosen, optimize)]
    weights, macs = sum(x.weights for x in layers), max(1, sum(x.macs for x in layers))
    # Weights that may become floating point: each takes one byte more.
    left = (1 - MIN_INT8_SHARE) * weights
    if optimize == "accuracy":
        left = min(left, (MAX_SIZE * FP32_BYTES - BYTES["weight_only"]) * weights)
    while True:
        best: tuple[float, Sensitivity, Treatment] | None = None
        for layer in layers:
            before = chosen[layer.path]
            after = _better(layer, before)
            if after is None or (after == "keep_float" and layer.weights > left):
                continue
            size = layer.weights * (BYTES[after] - BYTES[before]) / (FP32_BYTES * weights)
            time = (layer.time(after) - layer.time(before)) / macs
            removed = layer.noise(before) - layer.noise(after)
            gain = removed / max(_cost(size, time, optimize), 1e-12)
            if best is None or gain > best[0]:
                best = gain, layer, after
        if best is None:
            return tuple(rungs)
        _, layer, after = best
        left -= layer.weights if after == "keep_float" else 0
        chosen = {**chosen, layer.path: after}
        rungs.append(_rung(layers, chosen, optimize))


def _cheapest(layer: Sensitivity, optimize: Optimize) -> Treatment:
    """Return the treatment that a layer starts with."""
    # INT8 activations save no bytes, and no time in a grouped convolution.
    if "w8a8" not in layer.sqnr_db or layer.grouped or optimize == "accuracy":
        return "weight_only"
    return "w8a8"


def _better(layer: Sensitivity, treatment: Treatment) -> Treatment | None:
    """Return the next treatment with less noise than this one; None if there is none."""
    rest = ORDER[ORDER.index(treatment) + 1 :]
    return next((t for t in rest if layer.noise(t) < layer.noise(treatment)), None)


def _cost(size: float, time: float, optimize: Optimize) -> float:
    return COST_OF_BYTES[optimize] * size + COST_OF_TIME[optimize] * time


def _rung(
    layers: Sequence[Sensitivity], treatments: Mapping[str, Treatment], optimize: Optimize
) -> Rung:
    stored = sum(x.weights * BYTES[treatments[x.path]] for x in layers)
    size = stored / (FP32_BYTES * sum(x.weights for x in layers))
    time = sum(x.time(treatments[x.path]) for x in layers) / max(1, sum(x.macs for x in layers))
    return Rung(treatments=treatments, size=size, time=time, cost=_cost(size, time, optimize))
