"""The series of recipes, on made-up sensitivities."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from effsam_export.quantize.ladder import MAX_SIZE, MIN_INT8_SHARE, Rung, Sensitivity, ladder
from effsam_export.spec.int8 import OPTIMIZE

if TYPE_CHECKING:
    from effsam_export.spec.int8 import Optimize


def layer(
    path: str,
    w8a8: float | None,
    weight_only: float,
    *,
    weights: int = 100,
    macs: int = 1000,
    grouped: bool = False,
) -> Sensitivity:
    found = {} if w8a8 is None else {"w8a8": w8a8}
    return Sensitivity(
        path=path,
        weights=weights,
        macs=macs,
        grouped=grouped,
        sqnr_db={**found, "weight_only": weight_only},  # type: ignore[dict-item]
    )


LAYERS = [
    layer("outliers", 11, 45),
    layer("plain", 42, 46),
    layer("poor", 30, 31),
    layer("depthwise", 40, 44, weights=10, grouped=True),
    layer("weights", None, 45),
]


def noise(rung: Rung) -> float:
    return sum(x.noise(rung.treatments[x.path]) for x in LAYERS)


@pytest.mark.parametrize("optimize", OPTIMIZE)
def test_each_recipe_changes_one_layer_and_has_less_noise(optimize: Optimize) -> None:
    rungs = ladder(LAYERS, optimize)
    assert len(rungs) > 1
    for before, after in pairwise(rungs):
        changed = [p for p in before.treatments if before.treatments[p] != after.treatments[p]]
        assert len(changed) == 1
        assert noise(after) < noise(before)
        assert after.cost >= before.cost


def test_the_first_recipe_is_the_cheapest() -> None:
    first = ladder(LAYERS, "size")[0]
    assert first.treatments == {
        "outliers": "w8a8",
        "plain": "w8a8",
        "poor": "w8a8",
        # No runtime is faster with INT8 activations there, and nothing is smaller.
        "depthwise": "weight_only",
        "weights": "weight_only",
    }
    assert first.size == 0.25
    assert first.time == pytest.approx((3 * 0.4 + 2) / 5)


def test_the_worst_layer_is_changed_first() -> None:
    for optimize in ("size", "latency"):
        second = ladder(LAYERS, optimize)[1]
        assert second.treatments["outliers"] == "weight_only"
        assert second.treatments["plain"] == "w8a8"


def test_a_layer_that_hardly_changes_the_outputs_comes_last() -> None:
    quiet = [replace(x, gain=1e-6 if x.path == "outliers" else 1.0) for x in LAYERS]
    rungs = ladder(quiet, "latency")
    changed = [i for i, r in enumerate(rungs) if r.treatments["outliers"] != "w8a8"]
    assert not changed or min(changed) > 3


def test_a_layer_that_weights_alone_spoil_goes_to_floating_point() -> None:
    last = ladder(LAYERS, "size")[-1]
    assert last.treatments["poor"] == "keep_float"


def test_size_keeps_int8_weights_where_latency_keeps_int8_products() -> None:
    """Two cures of the same noise: what costs time, or what costs bytes."""
    both = [layer("activations", 20, 60), layer("weights", None, 20), layer("rest", 60, 61)]

    def cured(optimize: Optimize, path: str) -> int:
        rungs = ladder(both, optimize)
        return next(
            i for i, r in enumerate(rungs) if r.treatments[path] != rungs[0].treatments[path]
        )

    assert cured("size", "activations") < cured("size", "weights")
    assert cured("latency", "weights") < cured("latency", "activations")


@pytest.mark.parametrize("optimize", OPTIMIZE)
def test_most_weights_stay_in_int8(optimize: Optimize) -> None:
    many = [layer(f"l{i}", 20 + i, 25 + i, weights=10) for i in range(20)]
    last = ladder(many, optimize)[-1]
    share = sum(t != "keep_float" for t in last.treatments.values()) / len(many)
    assert share >= MIN_INT8_SHARE
    limit = MAX_SIZE if optimize == "accuracy" else 1
    assert last.size <= limit
    # One more layer would break the limit.
    assert share - 0.05 < MIN_INT8_SHARE or last.size + 0.25 * 0.05 > limit


def test_accuracy_has_no_int8_activations() -> None:
    for rung in ladder(LAYERS, "accuracy"):
        assert "w8a8" not in rung.treatments.values()


def test_the_cost_is_what_the_search_prefers() -> None:
    size, latency = ladder(LAYERS, "size")[0], ladder(LAYERS, "latency")[0]
    assert size.cost == pytest.approx(size.size + 0.1 * size.time)
    assert latency.cost == pytest.approx(0.1 * latency.size + latency.time)


def test_an_exact_layer_is_not_changed() -> None:
    exact = [layer("a", float("inf"), float("inf")), layer("b", 20, 40)]
    assert all(r.treatments["a"] == "w8a8" for r in ladder(exact, "size"))


def test_there_is_no_recipe_without_layers() -> None:
    assert ladder([], "size") == ()
