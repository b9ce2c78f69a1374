"""Times taken side by side in one run: medians and leasts of calls in turn."""

from __future__ import annotations

import random
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

WARM_UP = 2
SETTLE_S = 0.1
"""Rest before each call, in seconds.

The thread pools of torch, ONNX Runtime and OpenVINO go on spinning for a while after a call; with
no rest the next contender shares its cores with them, and its place in the round decides its time.
"""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Calls of one contender, in seconds."""

    median_s: float
    least_s: float
    rounds: int


def interleave(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    settle_s: float = SETTLE_S,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Latency]:
    """Call every contender once a round, in an order that is shuffled anew each round.

    Args:
        calls: Contenders by name. Each is called `WARM_UP` times before the first round.
        rounds: Calls of each that count, at least 1.
        settle_s: Rest before each call, in seconds.
        clock: Seconds of a clock that never goes back.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}, want at least 1")
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(calls), k=len(calls)):
            time.sleep(settle_s)
            start = clock()
            calls[name]()
            taken[name].append(clock() - start)
    return {name: summarise(seconds) for name, seconds in taken.items()}


def summarise(seconds: Sequence[float]) -> Latency:
    """Median and least of the times of one contender, in seconds."""
    return Latency(median_s=statistics.median(seconds), least_s=min(seconds), rounds=len(seconds))
