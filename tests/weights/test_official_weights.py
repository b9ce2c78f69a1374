"""The official weights, wrapped as training code saves them, have the same hash and masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from effsam_export import models
from effsam_export.imaging.decode import load_image
from effsam_export.imaging.images import frame_of, prompt_to_model
from effsam_export.spec.prompts import Point, Prompt, Sample
from effsam_export.weights import checkpoint as loading
from effsam_export.weights.own_file import checkpoint_from_file
from tests.paths import REPOSITORY
from tests.weights import wrapped_checkpoints as wrapped

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from effsam_export.spec.stages import Checkpoint

pytestmark = [pytest.mark.backend, pytest.mark.weights]

MODEL = models.get("mobile-sam")
OFFICIAL = "f0b4e749a1fc1bac8436b478bd351dc1a2152b60fd56b3d08e9e9b997dd74075"
"""`weights_sha256` of the authors' file."""
SAMPLE = (
    "prefix module._orig_mod.",
    "wrappers at three depths",
    "a dictionary of each part under model",
    "training file",
    "Lightning with hyper-parameters",
    "pickled module in DataParallel",
    "parameters",
    "a detection head",
)


@pytest.fixture(scope="module")
def state(official: Checkpoint) -> dict[str, Tensor]:
    return dict(loading.read_state_dict(official.path))


def test_the_authors_file(official: Checkpoint) -> None:
    assert loading.load_with_facts(MODEL, official).facts.weights_sha256 == OFFICIAL


@pytest.mark.parametrize("name", SAMPLE)
def test_wrapped(tmp_path: Path, state: dict[str, Tensor], name: str) -> None:
    torch.save(wrapped.WRAPPED[name](state), tmp_path / "w.pt")
    checkpoint = checkpoint_from_file(tmp_path / "w.pt", None)
    assert loading.load_with_facts(MODEL, checkpoint).facts.weights_sha256 == OFFICIAL


def test_without_counters(tmp_path: Path, state: dict[str, Tensor]) -> None:
    bare = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}
    assert len(bare) < len(state)
    torch.save(bare, tmp_path / "w.pt")
    checkpoint = checkpoint_from_file(tmp_path / "w.pt", None)
    assert loading.load_with_facts(MODEL, checkpoint).facts.weights_sha256 == OFFICIAL


def mask_of(module: nn.Module) -> NDArray[np.bool_]:
    """The best mask of a point on the cup, at low resolution."""
    image = load_image(REPOSITORY / "calibration" / "images" / "coffee.jpg")
    frame = frame_of((image.shape[0], image.shape[1]), MODEL.preprocess)
    embedding = MODEL.component("encoder").reference(module, Sample(image=image))
    prompt = prompt_to_model(Prompt(points=(Point(x=280, y=140),)), frame)
    sample = Sample(image=image, embeddings=embedding["image_embeddings"], prompt=prompt)
    found = MODEL.component("decoder").reference(module, sample)
    best = 1 + int(found["iou_predictions"][0, 1:].argmax())
    return np.asarray(found["low_res_masks"][0, best] > 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_keeps_the_mask(
    tmp_path: Path, official: Checkpoint, state: dict[str, Tensor], dtype: torch.dtype
) -> None:
    halved = {n: v.to(dtype) if v.is_floating_point() else v for n, v in state.items()}
    torch.save(halved, tmp_path / "w.pt")
    one = mask_of(loading.load(MODEL, official))
    other = mask_of(loading.load(MODEL, checkpoint_from_file(tmp_path / "w.pt", None)))
    assert (one & other).sum() / (one | other).sum() >= 0.99
