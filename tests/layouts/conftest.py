"""Bundles of the shallow model in the layouts of apps, each exported once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from effsam_export import models
from effsam_export.config import calibration, int8_recipe
from effsam_export.config.targets import load_target
from effsam_export.pipeline.request import ExportRequest, Int8Request
from effsam_export.weights import own_file
from tests.layouts import shallow as shallow_models
from tests.layouts.shallow import SHALLOW_SAM, write_checkpoint
from tests.stages import export

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from effsam_export.spec.model import ModelSpec
    from tests.layouts.marks import LayoutBundle

PARITY = """
[[images]]
file = "photo.png"
prompts = [
  { name = "point", points = [[60, 40, 1]] },
  { name = "both", points = [[20, 20, 0]], box = [10, 10, 90, 60] },
]
"""


INT8 = Int8Request(calibration=calibration.load(num_samples=4), plan=int8_recipe.load("default"))


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the shallow models into the table of models."""
    for name in ("SHALLOW_SAM", "SHALLOW_EDGE", "SHALLOW_EFFICIENTVIT"):
        model = getattr(shallow_models, name)
        monkeypatch.setitem(models.MODELS, model.name, (shallow_models.__name__, name))


@pytest.fixture(scope="session")
def picture() -> NDArray[np.uint8]:
    """A picture of 77 x 121 pixels, whose sides are no multiples of anything."""
    y, x = np.mgrid[0:77, 0:121]
    disc = 255 * ((x - 60) ** 2 + (y - 40) ** 2 < 900)
    return np.stack([x * 2, y * 3, disc], axis=-1).astype(np.uint8)


@pytest.fixture(scope="session")
def layout_bundle(
    tmp_path_factory: pytest.TempPathFactory, picture: NDArray[np.uint8], stage_root: Path
) -> LayoutBundle:
    """A function that returns a bundle, exported at its first use."""
    folder = tmp_path_factory.mktemp("layouts")
    Image.fromarray(picture).save(folder / "photo.png")
    (folder / "parity.toml").write_text(PARITY, "utf-8")

    def bundle(target: str, precision: str, model: ModelSpec = SHALLOW_SAM) -> Path:
        output = folder / f"{model.name}-{target}-{precision}"
        if not output.exists():
            weights = write_checkpoint(folder / f"{model.name}.pt", model)
            request = ExportRequest(
                model=model,
                target=load_target(target, precision),
                checkpoint=own_file.checkpoint_from_file(weights, None),
                output=output,
                parity_file=folder / "parity.toml",
                int8=None if precision != "int8" else INT8,
            )
            export(request, stage_root)
        return output

    return bundle
