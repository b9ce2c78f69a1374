"""Find the fewest modules to keep out of INT8 or FP16 so that masks meet a gate.

Components are searched in turn, the encoder first. The components after it stay in floating point.
Every evaluation is a full parity check. A component takes four steps:

1. Measure sensitivities: quantize one block at a time, then each layer of a block that costs IoU.
2. Keep the most sensitive layers in floating point, as few as meet the gate, by bisection.
3. Quantize layers of these again where the gate is still met: in chunks, then one by one.
4. For INT8: store the weights of the remaining layers in INT8 where the gate is still met.

At the end the target's own quantizer is evaluated. If its masks miss the gate, more layers are kept
in floating point, as few as meet it. Evaluations are written to a file, so that an interrupted
search can continue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from effsam_export.errors import CheckFailed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from effsam_export.bisect.evaluations import Evaluation, EvaluationLog, Override

SEPARATOR = ":"
"""Between component and module path in the name of a layer."""
EVALUATIONS_PER_OVERRIDE = 5
"""Estimated evaluations of step 3 for each layer that step 2 keeps."""
NEGLIGIBLE = 0.002
"""Loss of mean mask IoU below which the layers of a block are not measured one by one."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The mask IoU that a search has to reach."""

    min_iou: float
    mean_iou: float

    def is_met(self, evaluation: Evaluation) -> bool:
        """Return whether an evaluation meets the gate and all other gates; NaN does not."""
        return (
            evaluation.min_iou >= self.min_iou
            and evaluation.mean_iou >= self.mean_iou
            and evaluation.failed_gates == 0
        )

    def tightened(self, best: Evaluation, fraction: float) -> Gate:
        """Return a stricter gate, which allows this fraction of the loss from the best values."""
        return Gate(
            min_iou=self.min_iou + (1 - fraction) * (best.min_iou - self.min_iou),
            mean_iou=self.mean_iou + (1 - fraction) * (best.mean_iou - self.mean_iou),
        )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A layer that is kept out of INT8 or FP16.

    Attributes:
        layer: `component:module path`.
        sensitivity: Loss of mean mask IoU if only this layer, or only its block, is quantized.
    """

    layer: str
    treatment: Override
    sensitivity: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a search.

    Attributes:
        layers: Number of layers that could be quantized.
        evaluations: Number of evaluations, including those of an interrupted run.
        before: All layers quantized, in ONNX Runtime.
        after: With the choices, in ONNX Runtime.
        deployed: With the choices, by the target's own quantizer; None if it was not evaluated.
    """

    choices: tuple[Choice, ...]
    layers: int
    evaluations: int
    before: Evaluation
    after: Evaluation
    deployed: Evaluation | None = None


def search(
    layers: Sequence[str],
    gate: Gate,
    log: EvaluationLog,
    *,
    weighted: Collection[str] = (),
    negligible: float = NEGLIGIBLE,
) -> Outcome:
    """Find the layers to keep out of INT8 or FP16.

    Args:
        layers: Module paths of all layers, `component:path`, in the order of the graphs.
        gate: The mask IoU to reach.
        log: Runs the evaluations.
        weighted: Layers whose weights may be stored in INT8 without their activations.
        negligible: Loss of mean mask IoU below which the layers of a block are not measured.

    Raises:
        CheckFailed: The gate is not met even with nothing quantized.
    """
    all_in_float = _in_float(layers)
    log.expected = likely_evaluations(layers)
    before = log.evaluate({})
    overrides: dict[str, Override] = {}
    cost: dict[str, float] = dict.fromkeys(layers, 0.0)
    if not gate.is_met(before):
        best = log.evaluate(all_in_float)
        if not gate.is_met(best):
            raise CheckFailed(
                f"with nothing quantized the min mask IoU is {best.min_iou:.4f} and the mean "
                f"{best.mean_iou:.4f}, {best.failed_gates} other gates are missed: no choice of "
                "modules meets the gate",
                hint=f"--min-iou {max(0.0, best.min_iou - 0.01):.2f} could be reached",
            )
        parts = components(layers)
        overrides = dict(all_in_float)
        for i, own in enumerate(parts):
            # Each component may use an equal part of the loss that the gate allows.
            stricter = gate.tightened(best, (i + 1) / len(parts))
            others = {k: v for k, v in overrides.items() if k not in own}
            cost.update(sensitivities(own, others, log, negligible))
            overrides = search_component(own, others, cost, stricter, log, weighted)
    overrides = confirmed(overrides, ranking(layers, cost), gate, log)
    after, deployed = log.evaluate(overrides), log.evaluate_target(overrides)
    choices = [
        Choice(layer=layer, treatment=treatment, sensitivity=cost[layer])
        for layer, treatment in overrides.items()
    ]
    return Outcome(
        choices=tuple(sorted(choices, key=lambda c: (-c.sensitivity, c.layer))),
        layers=len(layers),
        evaluations=log.count,
        before=before,
        after=after,
        deployed=deployed,
    )


def components(layers: Sequence[str]) -> list[list[str]]:
    """Group layers by component, in the given order."""
    groups: dict[str, list[str]] = {}
    for layer in layers:
        groups.setdefault(layer.partition(SEPARATOR)[0], []).append(layer)
    return list(groups.values())


def ranking(layers: Sequence[str], cost: Mapping[str, float]) -> list[str]:
    """Sort layers by sensitivity, the highest first; equal ones stay in graph order."""
    return sorted(layers, key=lambda layer: -cost[layer])


def search_component(
    layers: Sequence[str],
    others: Mapping[str, Override],
    cost: Mapping[str, float],
    gate: Gate,
    log: EvaluationLog,
    weighted: Collection[str],
) -> dict[str, Override]:
    """Return the overrides of one component together with those of the other components."""
    if gate.is_met(log.evaluate(others)):
        return dict(others)
    overrides = fewest(ranking(layers, cost), others, gate, log)
    own = [layer for layer in layers if layer in overrides]
    log.expected = log.count + EVALUATIONS_PER_OVERRIDE * len(own)
    overrides = relaxed(overrides, None, own, cost, gate, log)
    own = [layer for layer in own if layer in overrides and layer in weighted]
    return relaxed(overrides, "weight_only", own, cost, gate, log)


def confirmed(
    overrides: dict[str, Override], ranked: Sequence[str], gate: Gate, log: EvaluationLog
) -> dict[str, Override]:
    """Return the overrides, with more layers in floating point if the target misses the gate.

    Args:
        overrides: The result of the search in ONNX Runtime.
        ranked: All layers, the most sensitive first.
        gate: The mask IoU to reach.
        log: Runs the evaluations.

    Raises:
        CheckFailed: The target misses the gate even with all layers in floating point.
    """
    evaluation = log.evaluate_target(overrides)
    if evaluation is None or gate.is_met(evaluation):
        return overrides
    remaining = [layer for layer in ranked if overrides.get(layer) != "keep_float"]

    def with_more(size: int) -> tuple[dict[str, Override], bool]:
        trial = {**overrides, **_in_float(remaining[:size])}
        evaluation = log.evaluate_target(trial)
        return trial, evaluation is not None and gate.is_met(evaluation)

    # The number is doubled from 1: a file with too many FP16 layers is refused as an INT8 file.
    low, high = 0, 1
    while not with_more(high)[1]:
        if high == len(remaining):
            raise CheckFailed(
                "the target misses the gate with any number of layers in floating point: min "
                f"mask IoU {evaluation.min_iou:.4f}, mean {evaluation.mean_iou:.4f}, "
                f"{evaluation.failed_gates} other gates missed with the layers of the search",
                hint=f"--min-iou {max(0.0, evaluation.min_iou - 0.01):.2f} could be reached",
            )
        low, high = high, min(2 * high, len(remaining))
    while high - low > 1:
        middle = (low + high) // 2
        if with_more(middle)[1]:
            high = middle
        else:
            low = middle
    return with_more(high)[0]


def sensitivities(
    layers: Sequence[str],
    others: Mapping[str, Override],
    log: EvaluationLog,
    negligible: float = NEGLIGIBLE,
) -> dict[str, float]:
    """Return the loss of mean mask IoU for each layer of a component if only it is quantized.

    If quantizing a whole block loses less than `negligible`, its layers get the loss of the block.

    Args:
        layers: Layers of the component.
        others: Overrides of the other components.
        log: Runs the evaluations.
        negligible: Loss of mean mask IoU below which the layers of a block are not measured.
    """
    best = log.evaluate({**others, **_in_float(layers)}).mean_iou
    cost: dict[str, float] = {}
    for group in blocks(layers):
        rest = _in_float(x for x in layers if x not in group)
        lost = best - log.evaluate({**others, **rest}).mean_iou
        if lost <= negligible or len(group) == 1:
            cost.update(dict.fromkeys(group, lost))
            continue
        for layer in group:
            rest = _in_float(x for x in layers if x != layer)
            cost[layer] = best - log.evaluate({**others, **rest}).mean_iou
    return cost


def blocks(layers: Iterable[str]) -> list[list[str]]:
    """Group layers by block: the innermost numbered module around a layer, or its parent."""
    groups: dict[str, list[str]] = {}
    for layer in layers:
        parts = layer.split(".")
        numbers = [i for i, part in enumerate(parts) if part.isdigit()]
        # For `layers.1.blocks.0.mlp.fc1` this is `layers.1.blocks.0`.
        inner = [i for i in numbers if i < len(parts) - 1]
        block = ".".join(parts[: inner[-1] + 1] if inner else parts[:-1])
        groups.setdefault(block, []).append(layer)
    return list(groups.values())


def fewest(
    ranked: Sequence[str], others: Mapping[str, Override], gate: Gate, log: EvaluationLog
) -> dict[str, Override]:
    """Return the fewest layers of a ranking to keep so that the gate is met, by bisection."""
    low, high = 1, len(ranked)
    while low < high:
        middle = (low + high) // 2
        if gate.is_met(log.evaluate({**others, **_in_float(ranked[:middle])})):
            high = middle
        else:
            low = middle + 1
    return {**others, **_in_float(ranked[:low])}


def relaxed(
    overrides: Mapping[str, Override],
    to: Override | None,
    among: Sequence[str],
    cost: Mapping[str, float],
    gate: Gate,
    log: EvaluationLog,
) -> dict[str, Override]:
    """Quantize layers again (`to` None) or store their weights in INT8, where the gate is met.

    Layers are changed in chunks, the least sensitive first. Chunks are halved down to single
    layers, until no single layer can be changed. Source: Zeller and Hildebrandt, "Simplifying and
    Isolating Failure-Inducing Input", 2002.

    Args:
        overrides: Overrides of all components.
        to: The new treatment; None removes the override.
        among: Layers that may change.
        cost: Sensitivity of each layer.
        gate: The mask IoU to reach.
        log: Runs the evaluations.
    """
    result, order = dict(overrides), sorted(among, key=lambda name: cost[name])
    size = max(1, len(order) // 2)
    while order:
        left: list[str] = []
        for start in range(0, len(order), size):
            chunk = order[start : start + size]
            trial = {k: v for k, v in result.items() if to is not None or k not in chunk}
            if to is not None:
                trial.update(dict.fromkeys(chunk, to))
            if gate.is_met(log.evaluate(trial)):
                result = trial
            else:
                left += chunk
        # A change can allow another one, so single layers are tried until none changes.
        if size == 1 and len(left) == len(order):
            break
        order, size = left, max(1, size // 2)
    return result


def _in_float(layers: Iterable[str]) -> dict[str, Override]:
    return dict.fromkeys(layers, "keep_float")


def likely_evaluations(layers: Sequence[str]) -> int:
    """Estimate the evaluations of a search, if a third of the layers is kept by bisection."""
    sensitivity = len(blocks(layers)) + 3 * len(layers) // 4
    kept = len(layers) // 3
    return sensitivity + len(layers).bit_length() + EVALUATIONS_PER_OVERRIDE * kept
