"""Parts of `benchmarks.distil`: crops, and the substitute's decoder."""

from __future__ import annotations

from functools import partial
from itertools import count

import numpy as np
import pytest
import torch

from benchmarks import distil
from effsam_export import models
from effsam_export.models.image_sizes import resized
from effsam_export.models.sam.components import as_sam
from tests.tiny import deterministic


def test_crops_are_squares_of_the_image() -> None:
    image = np.zeros((60, 90, 3), dtype=np.uint8)
    image[..., 0], image[..., 1] = 200, np.arange(90)
    batches = distil.crops([image], 32, 3, seed=1)
    first = next(batches)
    assert first.shape == (3, 3, 32, 32)
    assert torch.allclose(first[:, 0], torch.tensor(200.0), atol=1e-3)
    assert 0 <= first[:, 1].min() < first[:, 1].max() <= 89
    rising = {bool(crop[1, 0, -1] > crop[1, 0, 0]) for _ in range(4) for crop in next(batches)}
    assert rising == {True, False}


@pytest.fixture(scope="module")
def teacher() -> torch.nn.Module:
    module = resized(models.get(distil.TEACHER), 64).build()
    module.load_state_dict(deterministic(module.state_dict()))
    return module


def test_the_student_has_the_teachers_decoder(teacher: torch.nn.Module) -> None:
    student = distil.student_of(teacher, 64)
    wanted = teacher.state_dict()
    for name, value in student.state_dict().items():
        if not name.startswith("image_encoder."):
            assert torch.equal(value, wanted[name]), name


def test_training_lowers_the_loss(
    teacher: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    # A clock that goes on by a second each time it is read: 12 steps on any machine.
    monkeypatch.setattr("benchmarks.distil.time.monotonic", partial(next, count()))
    student = as_sam(distil.student_of(teacher, 64))
    image = np.random.default_rng(2).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    batches = distil.crops([image], 64, 2, seed=3)
    losses = distil.train(as_sam(teacher), student, batches, seconds=13, rate=1e-2, bf16=False)
    assert np.mean(losses[-3:]) < losses[0]
    distil.settle_norms(student, batches)
    assert not student.training
    assert distil.errors(as_sam(teacher), student, [image], 64)["cosine"] <= 1
