"""Checkpoints whose decoder has another number of masks than SAM's four."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")
import torch

from effsam_export import models
from effsam_export.errors import CheckpointError
from effsam_export.models import fixed
from effsam_export.models.sam.components import as_sam
from effsam_export.weights import checkpoint as loading
from effsam_export.weights.mask_tokens import in_number
from effsam_export.weights.own_file import checkpoint_from_file
from tests.mask_tokens import ROWS, with_masks
from tests.tiny import TINY_SAM

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from effsam_export.spec.stages import Checkpoint

pytestmark = pytest.mark.backend


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
