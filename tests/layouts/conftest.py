"""Bundles of the shallow model in the layouts of apps, each exported once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from effsam_export import models
from effsam_export.config.targets import load_target
from effsam_export.weights import own_file
from tests.layouts.shallow import SHALLOW_SAM, write_checkpoint
from tests.stages import export

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from effsam_export.spec.stages import Checkpoint

PARITY = """
[[images]]
file = "photo.png"
prompts = [
  { name = "point", points = [[60, 40, 1]] },
  { name = "both", points = [[20, 20, 0]], box = [10, 10, 90, 60] },
]
"""


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the shallow model into the table of models."""
    monkeypatch.setitem(models.MODELS, SHALLOW_SAM.name, ("tests.layouts.shallow", "SHALLOW_SAM"))


@pytest.fixture(scope="session")
def shallow_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Weights of the shallow model."""
    path = write_checkpoint(tmp_path_factory.mktemp("weights") / "shallow.pt")
    return own_file.checkpoint_from_file(path, None)


@pytest.fixture(scope="session")
def picture() -> NDArray[np.uint8]:
    """A picture of 77 x 121 pixels, whose sides are no multiples of anything."""
    y, x = np.mgrid[0:77, 0:121]
    disc = 255 * ((x - 60) ** 2 + (y - 40) ** 2 < 900)
    return np.stack([x * 2, y * 3, disc], axis=-1).astype(np.uint8)


@pytest.fixture(scope="session")
def layout_bundle(
    tmp_path_factory: pytest.TempPathFactory,
    shallow_checkpoint: Checkpoint,
    picture: NDArray[np.uint8],
    stage_root: Path,
) -> Callable[[str, str], Path]:
    """A function that returns the bundle of a target and a precision, exported at its first use."""
    from effsam_export.pipeline.request import ExportRequest

    folder = tmp_path_factory.mktemp("layouts")
    Image.fromarray(picture).save(folder / "photo.png")
    (folder / "parity.toml").write_text(PARITY, "utf-8")

    def bundle(target: str, precision: str) -> Path:
        output = folder / f"{target}-{precision}"
        if not output.exists():
            request = ExportRequest(
                model=SHALLOW_SAM,
                target=load_target(target, precision),
                checkpoint=shallow_checkpoint,
                output=output,
                parity_file=folder / "parity.toml",
            )
            export(request, stage_root)
        return output

    return bundle
