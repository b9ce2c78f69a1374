"""Fixtures: the models of the bundles."""

from __future__ import annotations

import pytest

from effsam_export import models


@pytest.fixture
def tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the models of `tests/bundle/v3` into the table of models."""
    place = ("tests.tiny_instances", "TINY_INSTANCES")
    monkeypatch.setitem(models.MODELS, "tiny-sam", ("tests.tiny", "TINY_SAM"))
    monkeypatch.setitem(models.MODELS, "tiny-instances", place)
