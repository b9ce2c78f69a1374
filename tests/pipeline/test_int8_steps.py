"""Which recipe is confirmed next, on a made-up series: its number is its SQNR in dB."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from effsam_export.pipeline.int8_steps import Found, Measured, Step, search


@dataclass(kw_only=True)
class Series:
    """A series of `count` recipes, of which those from `aim` on meet the aim.

    Attributes:
        gates: Those from here on meet the gates.
        seconds: Time of a confirmation.
        tried: The recipes that were confirmed.
    """

    count: int = 60
    aim: int = 35
    gates: int = 20
    seconds: float = 1.0
    budget: float = 1000.0
    flat_from: int = 1000
    tried: list[int] = field(default_factory=list)

    def confirm(self, rung: int, predicted: float) -> Step:
        assert predicted == rung
        self.tried.append(rung)
        measured = Measured(
            min_iou=rung / self.count,
            sqnr_db=float(rung),
            meets_gates=rung >= self.gates,
            meets_aim=rung >= self.aim,
        )
        return Step(rung=rung, predicted_db=predicted, measured=measured, seconds=self.seconds)

    def search(self, aim_db: float) -> Found:
        costs = [float(100 + min(i, self.flat_from) * 5) for i in range(self.count)]
        return search(
            costs,
            float,
            self.confirm,
            aim_db,
            lambda: self.budget - self.seconds * len(self.tried),
        )


def test_the_first_recipe_is_the_cheapest_that_is_predicted_to_meet_the_aim() -> None:
    series = Series(budget=1.5)
    found = series.search(40)
    assert series.tried == [40]
    assert (found.rung, found.complete) == (40, False)
    assert found.chosen is not None
    assert found.chosen.measured.meets_aim


def test_a_miss_is_followed_by_more_accurate_recipes() -> None:
    series = Series(aim=52)
    found = series.search(30)
    assert series.tried[:3] == [30, 33, 39]
    assert series.tried[3] == 51
    assert found.complete
    assert found.rung in range(52, 55)
    assert series.tried.count(found.rung) == 1


def test_a_success_is_followed_by_cheaper_ones() -> None:
    series = Series(aim=30)
    found = series.search(40)
    assert series.tried[:4] == [40, 37, 34, 31]
    assert found.rung in (30, 31)
    assert found.complete


def test_nothing_cheaper_is_tried_if_it_saves_nothing() -> None:
    series = Series(aim=30, flat_from=0)
    assert series.search(40).rung == 40
    assert series.tried == [40]


def test_the_most_accurate_recipe_comes_last_when_time_runs_out() -> None:
    series = Series(aim=58, budget=2.5)
    found = series.search(30)
    assert series.tried == [30, 59]
    assert found.rung == 59


@pytest.mark.parametrize(("gates", "rung"), [(20, 59), (100, 59)])
def test_the_best_of_those_that_miss_the_aim_is_chosen(gates: int, rung: int) -> None:
    series = Series(aim=100, gates=gates)
    found = series.search(30)
    assert found.rung == rung
    assert found.complete
    assert found.chosen is not None
    assert found.chosen.measured.meets_gates == (gates == 20)


def test_meeting_the_gates_comes_before_a_higher_iou() -> None:
    def confirm(rung: int, predicted: float) -> Step:
        measured = Measured(min_iou=0.5 + rung / 10, meets_gates=rung == 0)
        return Step(rung=rung, predicted_db=predicted, measured=measured, seconds=1)

    assert search([1, 2, 3], float, confirm, 0, lambda: 100).rung == 0


def test_without_time_the_predicted_recipe_is_not_confirmed() -> None:
    series = Series(budget=0)
    found = series.search(40)
    assert series.tried == []
    assert (found.rung, found.steps, found.complete) == (40, (), False)
    assert found.chosen is None


def test_a_single_recipe_is_confirmed_once() -> None:
    series = Series(count=1, aim=0)
    assert series.search(40).complete
    assert series.tried == [0]
