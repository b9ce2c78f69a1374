"""Checkpoints whose decoder has another number of masks than SAM's four."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")
import torch

from effsam_export import models
from effsam_export.bundle.read import read
from effsam_export.config.targets import load_target
from effsam_export.errors import CheckpointError
from effsam_export.models import fixed
from effsam_export.models.sam.components import as_sam
from effsam_export.pipeline import run, verify
from effsam_export.pipeline.request import ExportRequest
from effsam_export.weights import checkpoint as loading
from effsam_export.weights.mask_tokens import in_number
from effsam_export.weights.own_file import checkpoint_from_file
from tests.tiny import TINY_SAM

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from effsam_export.spec.stages import Checkpoint

pytestmark = pytest.mark.backend

D = "mask_decoder."
NETWORKS = f"{D}output_hypernetworks_mlps."
ROWS = (
    f"{D}mask_tokens.weight",
    *(f"{D}iou_prediction_head.layers.2.{x}" for x in ("weight", "bias")),
)


def with_masks(state: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The weights of the first masks, again for those past the fourth."""
    rest = {n: v for n, v in state.items() if not n.startswith(NETWORKS) and n not in ROWS}
    for i in range(count):
        own = f"{NETWORKS}{i % 4}."
        rest |= {
            f"{NETWORKS}{i}.{n.removeprefix(own)}": v for n, v in state.items() if n.startswith(own)
        }
    chosen = [i % 4 for i in range(count)]
    return {**rest, **{n: state[n][chosen] for n in ROWS}}


@pytest.fixture
def state(tiny_checkpoint: Checkpoint) -> dict[str, Tensor]:
    return dict(loading.read_state_dict(tiny_checkpoint.path))


def saved(folder: Path, state: dict[str, Tensor], count: int) -> Checkpoint:
    path = folder / f"{count}.pt"
    torch.save(with_masks(state, count), path)
    return checkpoint_from_file(path, None)


@pytest.mark.parametrize(
    ("count", "single", "multimask"),
    [(1, (), (0,)), (2, (0,), (1,)), (3, (0,), (1, 2)), (9, (0,), tuple(range(1, 9)))],
)
def test_the_model_has_the_masks_of_the_file(
    tmp_path: Path,
    state: dict[str, Tensor],
    count: int,
    single: tuple[int, ...],
    multimask: tuple[int, ...],
) -> None:
    loaded = loading.load_with_facts(TINY_SAM, saved(tmp_path, state, count))
    model = loaded.model
    assert (model.masks.single, model.masks.multimask) == (single, multimask)
    assert (
        loaded.facts.note == f"{len(with_masks(state, count))} tensors, {count} masks for a prompt"
    )
    shapes = {t.name: t.shape[1] for t in model.component("decoder").outputs}
    assert shapes == {"low_res_masks": count, "iou_predictions": count}
    given = torch.zeros(1, 256, 64, 64)
    points = (torch.tensor([[(500.0, 300.0)]]), torch.tensor([[1]]))
    with torch.inference_mode():
        masks, scores = as_sam(loaded.module).decode(given, points, None, None)
    assert (masks.shape[1], scores.shape[1]) == (count, count)


def test_four_masks_change_nothing() -> None:
    assert in_number(TINY_SAM, 4) is TINY_SAM
    assert in_number(TINY_SAM, 0) is TINY_SAM
    assert in_number(TINY_SAM, 10**9) is TINY_SAM


def test_other_decoders_keep_their_masks() -> None:
    for name in ("efficient-sam-ti", "fast-sam-s"):
        assert in_number(models.get(name), 7) is models.get(name)


def test_a_model_with_fixed_shapes() -> None:
    model = in_number(fixed.with_slots(TINY_SAM, 5), 3)
    shapes = [t.shape for t in model.component("decoder").outputs]
    assert shapes == [(1, 3, 256, 256), (1, 3)]


def test_parts_that_contradict_each_other(tmp_path: Path, state: dict[str, Tensor]) -> None:
    broken = {**with_masks(state, 3), ROWS[0]: state[ROWS[0]]}
    torch.save(broken, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        loading.load(TINY_SAM, checkpoint_from_file(tmp_path / "w.pt", None))


def test_an_export_says_and_verifies_its_masks(
    tmp_path: Path, state: dict[str, Tensor], tiny: None, parity_file: Path
) -> None:
    checkpoint = saved(tmp_path, state, 3)
    request = ExportRequest(
        model=TINY_SAM,
        target=load_target("onnx"),
        checkpoint=checkpoint,
        output=tmp_path / "bundle",
        parity_file=parity_file,
    )
    report = run.export(request)
    assert report.passed
    bundle = read(tmp_path / "bundle")
    assert bundle.manifest["masks"]["multimask"] == [1, 2]
    assert bundle.model.masks.multimask == (1, 2)
    found = verify.verify(
        tmp_path / "bundle", checkpoint=checkpoint, level="full", parity_file=parity_file
    )
    assert found.passed, found.failures
