"""Latency of one function, or of several that are called in turn: median and minimum."""

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

The thread pools of torch, ONNX Runtime and OpenVINO keep spinning for a while after a call. Without
a rest they would take CPU time from the next call.
"""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Latency of one function over `rounds` calls, in seconds."""

    median_s: float
    minimum_s: float
    rounds: int


def interleave(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm_up: int = WARM_UP,
    settle_s: float = SETTLE_S,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Latency]:
    """Measure several functions in turn and return the latency of each, by name.

    Every round calls each function once, in a new random order.

    Args:
        calls: Functions by name.
        rounds: Number of measured calls of each function, at least 1.
        warm_up: Number of calls of each function before the first round.
        settle_s: Rest before each call, in seconds.
        clock: A monotonic clock, in seconds.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}, want at least 1")
    for call in calls.values():
        for _ in range(warm_up):
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


def repeat(
    call: Callable[[], object],
    rounds: int,
    budget_s: float,
    *,
    settle_s: float = SETTLE_S,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Measure one function alone, within a budget of time, and return its latency.

    Args:
        call: The function.
        rounds: Largest number of measured calls, after one that warms up.
        budget_s: Time for the measured calls, in seconds. If the call that warms up takes as long,
            it is the only one, and is measured.
        settle_s: Rest before the first call, in seconds.
        clock: A monotonic clock, in seconds.
    """
    time.sleep(settle_s)
    taken: list[float] = []
    for _ in range(rounds + 1):
        start = clock()
        call()
        taken.append(clock() - start)
        if sum(taken[1:]) + taken[-1] > budget_s:
            break
    return summarise(taken[1:] or taken)


def summarise(seconds: Sequence[float]) -> Latency:
    """Return the median and the minimum of measured times in seconds."""
    return Latency(median_s=statistics.median(seconds), minimum_s=min(seconds), rounds=len(seconds))
