"""Costs in the table of models are those that are counted."""

from __future__ import annotations

import pytest

from effsam_export import models
from effsam_export.models.costs import COSTS


@pytest.mark.backend
@pytest.mark.parametrize("name", models.MODELS)
def test_costs_are_what_is_counted(name: str) -> None:
    pytest.importorskip("torch")
    from benchmarks import costs

    assert costs.count(models.get(name)) == COSTS[name]


def test_every_model_has_stated_costs() -> None:
    pytest.importorskip("torch")
    from benchmarks import costs

    assert set(costs.STATED) == set(models.MODELS)
