"""Calibration samples: inputs by tensor name, and prompts of every supported kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from effsam_export import models
from effsam_export.calibration import images as calibration_images
from effsam_export.calibration import prompts
from effsam_export.calibration.samples import Calibration
from effsam_export.config import calibration as recipe
from effsam_export.spec.prompts import PromptSupport

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.tensors import Feeds


class Encoder:
    """An encoder that answers with the mean of its picture everywhere."""

    def run(self, feeds: Feeds) -> Feeds:
        mean = feeds["image"].mean()
        return {"image_embeddings": np.full((1, 256, 64, 64), mean, np.float32)}


def calibration(folder: Path, num_samples: int = 3) -> Calibration:
    return Calibration(
        images=calibration_images.load(recipe.load(num_samples=num_samples)),
        folder=folder,
        threads=1,
    )


def test_encoder_samples_equal_the_inputs_at_inference(tmp_path: Path) -> None:
    model = models.get("mobile-sam")
    out = calibration(tmp_path).samples(model, model.component("encoder"))
    files = sorted(out.glob("*.npz"))
    assert [f.name for f in files] == ["0000.npz", "0001.npz", "0002.npz"]
    with np.load(files[0]) as arrays:
        assert set(arrays) == {"image"}
        assert arrays["image"].shape == (1, 3, 1024, 1024)
        assert arrays["image"].dtype == np.float32


def test_decoder_samples_hold_embeddings_and_prompts(tmp_path: Path) -> None:
    model = models.get("mobile-sam")
    decoder = model.component("decoder")
    out = calibration(tmp_path, 2).samples(model, decoder, Encoder)
    files = sorted(out.glob("*.npz"))
    assert len(files) == 2 * recipe.load().prompts_per_sample
    means, counts = set(), set()
    for file in files:
        with np.load(file) as arrays:
            assert set(arrays) == {s.name for s in decoder.inputs}
            means.add(float(arrays["image_embeddings"][0, 0, 0, 0]))
            counts.add(arrays["point_coords"].shape[1])
    assert len(means) == 2
    assert len(counts) > 1


def test_prompts_lie_in_the_image_and_are_deterministic() -> None:
    def draw() -> list[object]:
        generator = np.random.default_rng(5)
        return list(prompts.sample((40, 60), PromptSupport(), 12, generator))

    found = draw()
    assert found == draw()
    for prompt in prompts.sample((40, 60), PromptSupport(), 12, np.random.default_rng(5)):
        assert all(0 <= p.x < 60 and 0 <= p.y < 40 for p in prompt.points)
        if prompt.box is not None:
            x0, y0, x1, y1 = prompt.box
            assert 0 <= x0 < x1 <= 60
            assert 0 <= y0 < y1 <= 40


@pytest.mark.parametrize(
    ("support", "boxes", "both", "background"),
    [
        (PromptSupport(), True, True, True),
        (PromptSupport(negative_points=False), True, True, False),
        (PromptSupport(points_with_box=False), True, False, True),
        (PromptSupport(box=False, points_with_box=False), False, False, True),
    ],
)
def test_only_supported_prompts_are_sampled(
    support: PromptSupport, boxes: bool, both: bool, background: bool
) -> None:
    found = list(prompts.sample((40, 60), support, 16, np.random.default_rng(0)))
    assert any(p.box is not None for p in found) is boxes
    assert any(p.box is not None and p.points for p in found) is both
    assert any(q.label == 0 for p in found for q in p.points) is background
    assert all(p.points or p.box is not None for p in found)
