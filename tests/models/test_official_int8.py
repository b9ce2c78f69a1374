"""The official MobileSAM in INT8 against the authors' code: the same mask of the set wins.

Two photographs and nine prompts that we did not choose and that calibrate nothing. Exported as a
user does, with the recipe, samples and gates that ship; Core ML runs in the evaluator.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from effsam_export.bundle import read
from effsam_export.config import calibration, int8_recipe
from effsam_export.config import targets as profiles
from effsam_export.matrix import keys
from effsam_export.parity.metrics import mask_iou
from effsam_export.pipeline import run as pipeline
from effsam_export.pipeline.request import ExportRequest, Int8Request
from effsam_export.pipeline.stage_cache import StageCache
from tests.models.official import (
    MODEL,
    PROMPTS,
    Case,
    Outcome,
    ask,
    read_case,
    reference,
    through,
)

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.stages import Checkpoint

pytestmark = [pytest.mark.backend, pytest.mark.shared, pytest.mark.weights]

MEAN_IOU = 0.975
LEAST_IOU = 0.92


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One photograph: the authors' masks, our PyTorch model's answers and the artefact's."""

    case: Case
    wanted: Outcome
    found: Outcome


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the targets leave each other traces, rounded weights and PyTorch's answers."""
    return tmp_path_factory.mktemp("stages")


@pytest.fixture(scope="module", params=["onnx", "openvino", "tflite", "coreml"])
def asked(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    official: Checkpoint,
    shared: Path,
    kept: Path,
) -> dict[str, Asked]:
    """By photograph, for one target."""
    export = ExportRequest(
        model=MODEL,
        target=profiles.load_target(request.param, "int8"),
        checkpoint=official,
        output=tmp_path_factory.mktemp("int8") / request.param,
        int8=Int8Request(calibration=calibration.load(), plan=int8_recipe.load(MODEL.name)),
    )
    stages = StageCache(root=kept, parts=keys.shared(export, torch.get_num_threads()))
    pipeline.export(replace(export, stage_cache=stages))
    bundle = read.read(export.output)
    sessions = [read.open_session(bundle, c.name) for c in MODEL.components]
    routes = reference(official), through(*sessions, model=bundle.model)
    answers = {}
    for photo in PROMPTS:
        case = read_case(shared, photo)
        wanted, found = (ask(case, *route) for route in routes)
        answers[photo] = Asked(case=case, wanted=wanted, found=found)
    return answers


def test_the_mask_that_wins_is_the_one_that_wins_in_pytorch(asked: dict[str, Asked]) -> None:
    winners = {
        f"{photo}/{name}": tuple(o.answers[name, "multi"].indices[0] for o in (a.wanted, a.found))
        for photo, a in asked.items()
        for name in PROMPTS[photo]
    }
    assert len(winners) == 9
    assert {n: pair for n, pair in winners.items() if pair[0] != pair[1]} == {}


@pytest.mark.parametrize("modes", [("multi",), ("multi", "single")])
def test_masks_are_the_authors(asked: dict[str, Asked], modes: tuple[str, ...]) -> None:
    """The mask that wins, alone and with the single mask beside it."""
    ious = {
        f"{photo}/{name}/{mode}": mask_iou(
            a.found.answers[name, mode].masks[0], a.case.masks(name, mode)[0]
        )
        for photo, a in asked.items()
        for name in PROMPTS[photo]
        for mode in modes
    }
    assert min(ious.values()) >= LEAST_IOU, ious
    assert np.mean(list(ious.values())) >= MEAN_IOU, ious
