"""The benchmark of FP16 hazards: every fold can be taken back, and a model can be judged."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks import hazards
from effsam_export import models
from effsam_export.config.parity import load_parity_images
from effsam_export.spec.model import KeepFp32
from effsam_export.weights import checkpoint
from tests.tiny import TINY_SAM

if TYPE_CHECKING:
    from effsam_export.spec.stages import Checkpoint

pytestmark = pytest.mark.backend


@pytest.mark.parametrize("name", hazards.FOLDS)
def test_a_fold_is_taken_back_and_put_back(name: str) -> None:
    fold = hazards.FOLDS[name]
    module = import_module(f"effsam_export.models.{fold.place}")
    before = {attribute: getattr(module, attribute) for attribute in fold.undone}

    with hazards.taken_back(fold):
        assert all(getattr(module, a) is not value for a, value in before.items())

    assert {a: getattr(module, a) for a in fold.undone} == before


@pytest.mark.parametrize("name", hazards.FOLDS)
def test_a_fold_names_models_that_exist(name: str) -> None:
    for prefix in hazards.FOLDS[name].models:
        assert any(model.startswith(prefix) for model in models.names())


@pytest.fixture(scope="module")
def damages(tiny_checkpoint: Checkpoint) -> dict[str, hazards.Damage]:
    """The tiny model on one prompt, as it is and with an encoder that overflows."""
    module = checkpoint.load(TINY_SAM, tiny_checkpoint)
    row = load_parity_images()[0]
    asked = [hazards.ask(TINY_SAM, module, replace(row, cases=row.cases[:1]))]
    keep = KeepFp32(component="decoder", modules=("*",), reason="a test", source="none")
    return {
        "fp16": hazards.judge(TINY_SAM, module, asked, (), flush=False),
        "kept": hazards.judge(TINY_SAM, module, asked, (keep,), flush=False),
    }


def test_a_sound_model_is_judged_sound(damages: dict[str, hazards.Damage]) -> None:
    found = damages["fp16"]

    assert found.broken == 0
    assert 0 < found.error < 0.1
    assert found.mean == found.least > 0.95
    assert 0 < found.score < 0.1


def test_a_recipe_changes_the_judgement_of_its_component_only(
    damages: dict[str, hazards.Damage],
) -> None:
    assert damages["kept"].error == damages["fp16"].error
    assert damages["kept"].score != damages["fp16"].score
    assert np.isfinite(damages["kept"].score)
