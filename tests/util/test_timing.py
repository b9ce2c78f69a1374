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
