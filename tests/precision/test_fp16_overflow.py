"""The benchmark of FP16 overflow: scale foldings can be turned off, and errors are measured."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks import fp16_overflow
from effsam_export import models
from effsam_export.config.parity import load_parity_images
from effsam_export.spec.model import KeepFp32
from effsam_export.weights import checkpoint
from tests.tiny import TINY_SAM

if TYPE_CHECKING:
    from effsam_export.spec.stages import Checkpoint

pytestmark = pytest.mark.backend


@pytest.mark.parametrize("name", fp16_overflow.SCALE_FOLDINGS)
def test_a_scale_folding_is_turned_off_and_on_again(name: str) -> None:
    fold = fp16_overflow.SCALE_FOLDINGS[name]
    module = import_module(f"effsam_export.models.{fold.module}")
    before = {attribute: getattr(module, attribute) for attribute in fold.disabled}

    with fp16_overflow.without_folding(fold):
        assert all(getattr(module, a) is not value for a, value in before.items())

    assert {a: getattr(module, a) for a in fold.disabled} == before


@pytest.mark.parametrize("name", fp16_overflow.SCALE_FOLDINGS)
def test_a_scale_folding_names_models_that_exist(name: str) -> None:
    for prefix in fp16_overflow.SCALE_FOLDINGS[name].models:
        assert any(model.startswith(prefix) for model in models.names())


@pytest.fixture(scope="module")
def degradations(tiny_checkpoint: Checkpoint) -> dict[str, fp16_overflow.Degradation]:
    """The tiny model on one prompt, as it is and with an encoder that overflows."""
    module = checkpoint.load(TINY_SAM, tiny_checkpoint)
    row = load_parity_images()[0]
    images = [fp16_overflow.reference_image(TINY_SAM, module, replace(row, cases=row.cases[:1]))]
    keep = KeepFp32(component="decoder", modules=("*",), reason="a test", source="none")
    return {
        "fp16": fp16_overflow.evaluate(TINY_SAM, module, images, (), flush=False),
        "kept": fp16_overflow.evaluate(TINY_SAM, module, images, (keep,), flush=False),
    }


def test_a_model_without_overflow_has_small_errors(
    degradations: dict[str, fp16_overflow.Degradation],
) -> None:
    found = degradations["fp16"]

    assert found.broken == 0
    assert 0 < found.error < 0.1
    assert found.mean_iou == found.min_iou > 0.95
    assert 0 < found.score < 0.1


def test_a_recipe_changes_the_errors_of_its_component_only(
    degradations: dict[str, fp16_overflow.Degradation],
) -> None:
    assert degradations["kept"].error == degradations["fp16"].error
    assert degradations["kept"].score != degradations["fp16"].score
    assert np.isfinite(degradations["kept"].score)
