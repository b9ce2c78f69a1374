"""The steps of a search for an INT8 recipe: which recipe of a series is confirmed next.

The recipes come from `quantize.ladder`, the cheapest first. The first one to be confirmed is the
cheapest that is predicted to meet the aim. After a miss a more accurate one follows, after a
success a cheaper one, until the time is up or nothing is left to gain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STEP_DB = 3.0
"""Predicted SQNR between one recipe and the next to confirm. After each further miss it doubles."""
MIN_GAIN = 0.02
"""Share of the cost that a cheaper recipe must save to be confirmed."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The result of one confirmation: an export by the target's quantizer, compared with PyTorch.

    Attributes:
        mean_iou: Mean mask IoU of the masks that decide; None if nothing ran end to end.
        min_iou: Their minimum.
        ranking_changes: Prompts for which another mask of the set has the best score; no ties.
        sqnr_db: Lowest SQNR of the quantized component's first output; None if not finite.
        meets_gates: The target's gates are met.
        meets_aim: The aim of the search is met, and the gates too.
    """

    mean_iou: float | None = None
    min_iou: float | None = None
    ranking_changes: int = 0
    sqnr_db: float | None = None
    meets_gates: bool = False
    meets_aim: bool = False


@dataclass(frozen=True, kw_only=True)
class Step:
    """One confirmed recipe.

    Attributes:
        rung: Its number in the series.
        predicted_db: Predicted SQNR of the component's outputs, in dB.
        seconds: Time of the confirmation.
    """

    rung: int
    predicted_db: float
    measured: Measured
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Found:
    """The result of a search.

    Attributes:
        rung: Number of the chosen recipe in the series.
        steps: All confirmations, in their order.
        complete: Nothing was left to try; else the time was up.
    """

    rung: int
    steps: tuple[Step, ...]
    complete: bool

    @property
    def chosen(self) -> Step | None:
        """The confirmation of the chosen recipe; None if the time was up before."""
        return next((s for s in self.steps if s.rung == self.rung), None)


def search(
    costs: Sequence[float],
    predict: Callable[[int], float],
    confirm: Callable[[int, float], Step],
    aim_db: float,
    time_left: Callable[[], float],
) -> Found:
    """Confirm recipes of a series until the best one for the aim is found or the time is up.

    Args:
        costs: Cost of each recipe; at least one.
        predict: Returns the predicted SQNR of a recipe in dB, which grows with its number.
        confirm: Confirms a recipe, given its number and predicted SQNR.
        aim_db: SQNR at which the aim is expected to be met.
        time_left: Returns the seconds that are left.
    """
    steps: list[Step] = []
    rung = _first(predict, aim_db, 0, len(costs) - 1)
    while time_left() > (longest := max((s.seconds for s in steps), default=0.0)):
        following: int | None = rung
        if steps:
            last_chance = time_left() <= 2 * longest
            following = _following(steps, costs, predict, last_chance=last_chance)
        if following is None:
            return Found(rung=_best(steps, rung), steps=tuple(steps), complete=True)
        steps.append(confirm(following, predict(following)))
    # A single recipe leaves nothing to try.
    complete = bool(steps) and len(costs) == 1
    return Found(rung=_best(steps, rung), steps=tuple(steps), complete=complete)


def _following(
    steps: Sequence[Step],
    costs: Sequence[float],
    predict: Callable[[int], float],
    *,
    last_chance: bool,
) -> int | None:
    """Return the recipe to confirm next; None if there is nothing left to try."""
    last = len(costs) - 1
    missed = max((s.rung for s in steps if not s.measured.meets_aim), default=-1)
    met = min((s.rung for s in steps if s.measured.meets_aim), default=None)
    if met is None:
        if missed == last:
            return None
        # One more step fits into the time: the most accurate recipe, which is the best bet.
        if last_chance:
            return last
        more = STEP_DB * 2 ** (len(steps) - 1)
        return _first(predict, predict(missed) + more, missed + 1, last)
    if met - missed <= 1 or costs[met] - costs[missed + 1] < MIN_GAIN * costs[met]:
        return None
    wanted = predict(met) - STEP_DB
    if missed >= 0:
        wanted = (predict(met) + predict(missed)) / 2
    return _first(predict, wanted, missed + 1, met - 1)


def _first(predict: Callable[[int], float], wanted: float, low: int, high: int) -> int:
    """Return the first recipe from `low` on that reaches an SQNR; `high` if none before does."""
    while low < high:
        middle = (low + high) // 2
        if predict(middle) >= wanted:
            high = middle
        else:
            low = middle + 1
    return low


def _best(steps: Sequence[Step], otherwise: int) -> int:
    """Return the cheapest recipe that meets the aim, or else the best measured one."""
    if not steps:
        return otherwise
    met = [s.rung for s in steps if s.measured.meets_aim]
    if met:
        return min(met)

    def quality(step: Step) -> tuple[bool, float, float]:
        measured = step.measured
        return (
            measured.meets_gates,
            -1.0 if measured.min_iou is None else measured.min_iou,
            -1.0 if measured.sqnr_db is None else measured.sqnr_db,
        )

    return max(steps, key=quality).rung
