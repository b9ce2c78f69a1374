"""Find the fewest modules that INT8 or FP16 has to leave alone, judged on masks of photographs.

Component by component, the encoder first, while those that follow float, in four steps; every
judgement is a full parity check: (1) quantize one block alone, then, where masks suffer, each layer
of it alone: that is its sensitivity; (2) keep the most sensitive layers floating, as few as hold
the gate, by halving; (3) give back what the gate holds without, in chunks and then one by one; (4)
for INT8, likewise store weights alone in it where the gate holds. At the end the target's own
quantizer is asked; where its masks miss the gate, more layers float, as few as hold it. Judgements
are kept in a file, so that an interrupted search goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from effsam_export.errors import CheckFailed
from effsam_export.util.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from pathlib import Path

Kept = Literal["keep_float", "weight_only"]
SEPARATOR = ":"
"""Between component and module path in the name of a layer."""
PER_KEPT = 5
"""Judgements that giving back takes for each layer kept by then: MobileSAM's 63 took 300."""
NEGLIGIBLE = 0.002
"""Mean mask IoU that a block alone may cost without its layers being looked at."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What one judgement found, over all prompts.

    Attributes:
        mean, least: Mask IoU with PyTorch, of the masks a user is given.
        switched: Prompts for which another mask of the set wins, be it by a hair.
        missed: Failures of an export's other gates: tensors and scores that are off, masks that
            win by more than scores may be off, NaN.
    """

    mean_iou: float
    min_iou: float
    ranking_changes: int
    failed_gates: int


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What has to hold."""

    min_iou: float
    mean_iou: float

    def holds(self, evaluation: Evaluation) -> bool:
        """NaN does not."""
        return (
            evaluation.min_iou >= self.min_iou
            and evaluation.mean_iou >= self.mean_iou
            and evaluation.failed_gates == 0
        )

    def share(self, best: Evaluation, part: float) -> Gate:
        """A stricter gate, which gives away this part of what lies between it and the best."""
        return Gate(
            min_iou=self.min_iou + (1 - part) * (best.min_iou - self.min_iou),
            mean_iou=self.mean_iou + (1 - part) * (best.mean_iou - self.mean_iou),
        )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A layer that is not quantized whole, and how much its quantization alone costs.

    Attributes:
        sensitivity: Mean mask IoU lost when of its component nothing but its block or itself is
            quantized.
    """

    layer: str
    kept: Kept
    sensitivity: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a search found.

    Attributes:
        layers: How many there are.
        evaluations: Judgements in all; those that an earlier run had made included.
        before, after: Everything quantized, and with the choices, by the simulator.
        deployed: With the choices by the target's own quantizer; None where it was not asked.
    """

    choices: tuple[Choice, ...]
    layers: int
    evaluations: int
    before: Evaluation
    after: Evaluation
    deployed: Evaluation | None = None


class EvaluationLog:
    """Evaluations by the layers that were kept, written to disk after each one.

    Args:
        path: The file. Evaluations of another question in it are dropped.
        question: Hash of everything that an evaluation depends on besides the layers.
        evaluate: Runs one evaluation in ONNX Runtime, given the layers that are not quantized.
        on_progress: Called after each evaluation with the number done, the number expected,
            and the seconds it took.
        evaluate_target: Runs one evaluation on an export by the target's own quantizer.
    """

    def __init__(
        self,
        path: Path,
        question: str,
        evaluate: Callable[[Mapping[str, Kept]], Evaluation],
        on_progress: Callable[[int, int, float], None],
        evaluate_target: Callable[[Mapping[str, Kept]], Evaluation] | None = None,
    ) -> None:
        self._path, self._question, self._on_progress = path, question, on_progress
        self._evaluate, self._evaluate_target = evaluate, evaluate_target
        self._known: dict[str, Evaluation] = {}
        if path.is_file():
            document = json.loads(path.read_text("utf-8"))
            if document.get("question") == question:
                self._known = {k: Evaluation(**v) for k, v in document["evaluations"].items()}
        self._keys: set[str] = set()
        self.expected = 0

    @property
    def count(self) -> int:
        """How many different evaluations this search used, those read from the file included."""
        return len(self._keys)

    def evaluate(self, kept: Mapping[str, Kept]) -> Evaluation:
        """The evaluation when these layers are kept and all others are quantized."""
        return self._cached("", self._evaluate, kept)

    def evaluate_target(self, kept: Mapping[str, Kept]) -> Evaluation | None:
        """The same by the target's own quantizer; None where it cannot be asked."""
        if self._evaluate_target is None:
            return None
        return self._cached("deployed|", self._evaluate_target, kept)

    def _cached(
        self,
        prefix: str,
        evaluate: Callable[[Mapping[str, Kept]], Evaluation],
        kept: Mapping[str, Kept],
    ) -> Evaluation:
        key = prefix + ",".join(f"{layer}={kind}" for layer, kind in sorted(kept.items()))
        self._keys.add(key)
        if key not in self._known:
            began = time.perf_counter()
            self._known[key] = evaluate(kept)
            self._save()
            self._on_progress(self.count, self.expected, time.perf_counter() - began)
        return self._known[key]

    def _save(self) -> None:
        evaluations = {k: asdict(v) for k, v in self._known.items()}
        document = {"question": self._question, "evaluations": evaluations}
        write_whole(self._path, json.dumps(document, indent=1, sort_keys=True).encode())


def search(
    layers: Sequence[str],
    gate: Gate,
    log: EvaluationLog,
    *,
    weighted: Collection[str] = (),
    negligible: float = NEGLIGIBLE,
) -> Outcome:
    """Find what has to be kept.

    Args:
        layers: Module paths of all layers, `component:path`, in the order of the graphs.
        gate: What has to hold.
        log: Asks the judge.
        weighted: Layers that may have weights in INT8 and floating activations.
        negligible: Mean mask IoU that a block alone may cost without its layers being looked at.

    Raises:
        CheckFailed: The gate does not hold with nothing quantized.
    """
    every = _kept(layers)
    log.expected = likely_evaluations(layers)
    whole = log.evaluate({})
    kept: dict[str, Kept] = {}
    cost: dict[str, float] = dict.fromkeys(layers, 0.0)
    if not gate.holds(whole):
        best = log.evaluate(every)
        if not gate.holds(best):
            raise CheckFailed(
                f"with nothing quantized the min mask IoU is {best.min_iou:.4f} and the mean "
                f"{best.mean_iou:.4f}, {best.failed_gates} other gates are missed: no choice of "
                "modules holds the gate",
                hint=f"--min-iou {max(0.0, best.min_iou - 0.01):.2f} could be reached",
            )
        parts = components(layers)
        kept = dict(every)
        for i, own in enumerate(parts):
            # What is still to be quantized may cost as much as what has been.
            stricter = gate.share(best, (i + 1) / len(parts))
            others = {k: v for k, v in kept.items() if k not in own}
            cost.update(sensitivities(own, others, log, negligible))
            kept = component(own, others, cost, stricter, log, weighted)
    kept = confirmed(kept, ranking(layers, cost), gate, log)
    after, deployed = log.evaluate(kept), log.evaluate_target(kept)
    choices = [
        Choice(layer=layer, kept=kind, sensitivity=cost[layer]) for layer, kind in kept.items()
    ]
    return Outcome(
        choices=tuple(sorted(choices, key=lambda c: (-c.sensitivity, c.layer))),
        layers=len(layers),
        evaluations=log.count,
        before=whole,
        after=after,
        deployed=deployed,
    )


def components(layers: Sequence[str]) -> list[list[str]]:
    """Layers by component, in the order given."""
    found: dict[str, list[str]] = {}
    for layer in layers:
        found.setdefault(layer.partition(SEPARATOR)[0], []).append(layer)
    return list(found.values())


def ranking(layers: Sequence[str], cost: Mapping[str, float]) -> list[str]:
    """The most sensitive layer first; of equals the one that comes first in the graph."""
    return sorted(layers, key=lambda layer: -cost[layer])


def component(
    layers: Sequence[str],
    others: Mapping[str, Kept],
    cost: Mapping[str, float],
    gate: Gate,
    log: EvaluationLog,
    weighted: Collection[str],
) -> dict[str, Kept]:
    """What one component has to keep, beside what is kept of the others."""
    if gate.holds(log.evaluate(others)):
        return dict(others)
    kept = fewest(ranking(layers, cost), others, gate, log)
    own = [layer for layer in layers if layer in kept]
    log.expected = log.count + PER_KEPT * len(own)
    kept = relaxed(kept, None, own, cost, gate, log)
    own = [layer for layer in own if layer in kept and layer in weighted]
    return relaxed(kept, "weight_only", own, cost, gate, log)


def confirmed(
    kept: dict[str, Kept], ranked: Sequence[str], gate: Gate, log: EvaluationLog
) -> dict[str, Kept]:
    """The same where the target's own quantizer holds the gate, else with more layers floating.

    Raises:
        CheckFailed: It does not hold the gate with all of them floating.
    """
    evaluation = log.evaluate_target(kept)
    if evaluation is None or gate.holds(evaluation):
        return kept
    more = [layer for layer in ranked if kept.get(layer) != "keep_float"]

    def with_head(size: int) -> tuple[dict[str, Kept], bool]:
        found = {**kept, **_kept(more[:size])}
        evaluation = log.evaluate_target(found)
        return found, evaluation is not None and gate.holds(evaluation)

    # Doubled from one on, since a file in which too much floats is refused as no INT8 file.
    low, high = 0, 1
    while not with_head(high)[1]:
        if high == len(more):
            raise CheckFailed(
                "in the target itself the gate does not hold, however many layers float: least "
                f"mask IoU {evaluation.min_iou:.4f}, mean {evaluation.mean_iou:.4f}, "
                f"{evaluation.failed_gates} other gates missed with those that were found",
                hint=f"--min-iou {max(0.0, evaluation.min_iou - 0.01):.2f} could be reached",
            )
        low, high = high, min(2 * high, len(more))
    while high - low > 1:
        middle = (low + high) // 2
        if with_head(middle)[1]:
            high = middle
        else:
            low = middle
    return with_head(high)[0]


def sensitivities(
    layers: Sequence[str],
    others: Mapping[str, Kept],
    log: EvaluationLog,
    negligible: float = NEGLIGIBLE,
) -> dict[str, float]:
    """Mean mask IoU that each layer of a component costs when it alone is quantized.

    A block that alone costs next to nothing is not taken apart: its layers share its figure.

    Args:
        layers: Of the component.
        others: What is kept of the other components.
        log: Asks the judge.
        negligible: Mean mask IoU that a block alone may cost without its layers being looked at.
    """
    best = log.evaluate({**others, **_kept(layers)}).mean_iou
    cost: dict[str, float] = {}
    for group in blocks(layers):
        kept = _kept(x for x in layers if x not in group)
        lost = best - log.evaluate({**others, **kept}).mean_iou
        if lost <= negligible or len(group) == 1:
            cost.update(dict.fromkeys(group, lost))
            continue
        for layer in group:
            kept = _kept(x for x in layers if x != layer)
            cost[layer] = best - log.evaluate({**others, **kept}).mean_iou
    return cost


def blocks(layers: Iterable[str]) -> list[list[str]]:
    """Layers by the block they lie in: the shortest path that ends in a number, or their parent."""
    found: dict[str, list[str]] = {}
    for layer in layers:
        parts = layer.split(".")
        numbers = [i for i, part in enumerate(parts) if part.isdigit()]
        # The innermost number that is not the layer itself: `layers.1.blocks.0` of its `mlp.fc1`.
        inner = [i for i in numbers if i < len(parts) - 1]
        block = ".".join(parts[: inner[-1] + 1] if inner else parts[:-1])
        found.setdefault(block, []).append(layer)
    return list(found.values())


def fewest(
    ranked: Sequence[str], others: Mapping[str, Kept], gate: Gate, log: EvaluationLog
) -> dict[str, Kept]:
    """The shortest head of a ranking that holds the gate when it is kept too, by halving."""
    low, high = 1, len(ranked)
    while low < high:
        middle = (low + high) // 2
        if gate.holds(log.evaluate({**others, **_kept(ranked[:middle])})):
            high = middle
        else:
            low = middle + 1
    return {**others, **_kept(ranked[:low])}


def relaxed(
    kept: Mapping[str, Kept],
    to: Kept | None,
    among: Sequence[str],
    cost: Mapping[str, float],
    gate: Gate,
    log: EvaluationLog,
) -> dict[str, Kept]:
    """Give some layers back (`to` None) or store their weights in INT8, wherever the gate holds.

    In chunks that are halved, the least sensitive first, down to single layers: of what is left, no
    layer could be changed alone. Source: Zeller and Hildebrandt, "Simplifying and Isolating
    Failure-Inducing Input", 2002.
    """
    found, order = dict(kept), sorted(among, key=lambda name: cost[name])
    size = max(1, len(order) // 2)
    while order:
        left: list[str] = []
        for start in range(0, len(order), size):
            chunk = order[start : start + size]
            trial = {k: v for k, v in found.items() if to is not None or k not in chunk}
            if to is not None:
                trial.update(dict.fromkeys(chunk, to))
            if gate.holds(log.evaluate(trial)):
                found = trial
            else:
                left += chunk
        # A change may have made room for another: single layers are asked until none moves.
        if size == 1 and len(left) == len(order):
            break
        order, size = left, max(1, size // 2)
    return found


def _kept(layers: Iterable[str]) -> dict[str, Kept]:
    return dict.fromkeys(layers, "keep_float")


def likely_evaluations(layers: Sequence[str]) -> int:
    """About how many judgements a search takes: most layers, each block, halving, giving back."""
    kept = len(layers) // 3
    return len(blocks(layers)) + 3 * len(layers) // 4 + len(layers).bit_length() + PER_KEPT * kept
