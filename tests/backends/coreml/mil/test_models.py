"""Whole models: their FP32 packages against their export forms in PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from tests.paths import REPOSITORY

pytest.importorskip("coremltools")

from benchmarks.golden_checkpoints import golden_dir, write_checkpoint
from effsam_export import models
from effsam_export.backends.coreml.mil import evaluate, read
from effsam_export.weights.checkpoint import read_state_dict
from tests import tiny
from tests.backends.coreml.mil.building import convert

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from effsam_export.spec.model import ComponentSpec, ModelSpec

pytestmark = pytest.mark.backend

NO_GPU_NOISE = 2e-5
"""FP32 noise relative to the largest output."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    spec: ModelSpec
    module: nn.Module


def loaded(spec: ModelSpec, checkpoint: Path) -> Loaded:
    state = read_state_dict(checkpoint)
    module = spec.build_like(state) if spec.build_like else spec.build()
    module.load_state_dict(dict(state), strict=True)
    return Loaded(spec=spec, module=module.eval())


def deterministic(name: str, folder: Path) -> Loaded:
    return loaded(models.get(name), write_checkpoint(name, folder / "model.pt", golden_dir()))


def input_image(size: int) -> torch.Tensor:
    """1x3xSxS float32 of 0 to 255."""
    with Image.open(REPOSITORY / "calibration/images/astronaut.jpg") as image:
        pixels = np.asarray(image.convert("RGB").resize((size, size)), dtype=np.float32)
    return torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy())


def compare(model: Loaded, component: ComponentSpec, folder: Path) -> None:
    """Convert one component, run it on an image, and compare it with torch.

    On noise RepViT is so ill-conditioned that torch itself is 2e-5 away from its float64 result.
    """
    example = dict(component.example())
    if "image" in example:
        example["image"] = input_image(example["image"].shape[-1])
    wrapped = component.wrap(model.module).eval()
    names = [output.name for output in component.outputs]
    package = convert(wrapped, example, names, folder / f"{component.name}.mlpackage")
    feeds = {name: value.numpy() for name, value in example.items()}
    found = evaluate.run(read.load(package), feeds)
    with torch.no_grad():
        results = wrapped(*example.values())
    results = results if isinstance(results, tuple) else (results,)
    for name, result in zip(names, results, strict=True):
        wanted = result.numpy()
        assert found[name].shape == wanted.shape
        assert np.abs(found[name] - wanted).max() <= NO_GPU_NOISE * np.abs(wanted).max(), name


@pytest.mark.parametrize("index", [0, 1], ids=["encoder", "decoder"])
def test_the_tiny_model_equals_torch(index: int, tmp_path: Path) -> None:
    model = loaded(tiny.TINY_SAM, tiny.write_checkpoint(tmp_path / "tiny.pt"))
    compare(model, model.spec.components[index], tmp_path)


@pytest.mark.shared
@pytest.mark.slow
def test_mobile_sam_equals_torch(tmp_path: Path) -> None:
    model = deterministic("mobile-sam", tmp_path)
    compare(model, model.spec.components[0], tmp_path)


OTHERS = (
    *("sam-vit-b", "slim-sam-77", "repvit-sam", "efficient-sam-ti", "fast-sam-s"),
    "sam-lightening",
)
"""A model of each family that coremltools converts without the backend's own conversions."""


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_every_family_equals_torch(name: str, tmp_path: Path) -> None:
    model = deterministic(name, tmp_path)
    for component in model.spec.components:
        compare(model, component, tmp_path)
