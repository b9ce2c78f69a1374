"""Interleaved timing: order of the calls, median and minimum."""

from __future__ import annotations

import pytest

from effsam_export.util import timing
from effsam_export.util.timing import Latency


def test_every_function_is_called_once_per_round() -> None:
    called: list[str] = []
    ticks = iter(range(1000))
    found = timing.interleave(
        {name: lambda name=name: called.append(name) for name in "abc"},  # type: ignore[misc]
        rounds=4,
        settle_s=0.0,
        clock=lambda: float(next(ticks)),
    )
    assert found == {name: Latency(median_s=1.0, minimum_s=1.0, rounds=4) for name in "abc"}
    counted = called[3 * timing.WARM_UP :]
    rounds = [counted[i : i + 3] for i in range(0, len(counted), 3)]
    assert [sorted(r) for r in rounds] == [["a", "b", "c"]] * 4
    assert len({tuple(r) for r in rounds}) > 1


def test_median_and_minimum() -> None:
    assert timing.summarise([3.0, 1.0, 9.0]) == Latency(median_s=3.0, minimum_s=1.0, rounds=3)


def test_no_rounds_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        timing.interleave({}, 0)


def test_a_function_alone_is_called_within_its_budget() -> None:
    def latency(seconds: list[float], budget_s: float) -> tuple[int, Latency]:
        """The number of calls that take these seconds, and what was measured."""
        now = [0.0]
        left = iter(seconds)
        done: list[float] = []

        def call() -> None:
            done.append(next(left))
            now[0] += done[-1]

        found = timing.repeat(call, 3, budget_s, settle_s=0.0, clock=lambda: now[0])
        return len(done), found

    # The first call warms up.
    assert latency([9, 1, 2, 6], 100) == (4, Latency(median_s=2, minimum_s=1, rounds=3))
    assert latency([3, 3, 3, 3], 5) == (2, Latency(median_s=3, minimum_s=3, rounds=1))
    # One that is slower than the budget is called once.
    assert latency([9, 1, 1, 1], 5) == (1, Latency(median_s=9, minimum_s=9, rounds=1))
