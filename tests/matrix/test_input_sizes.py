"""The size of input that the checkpoint of a build's cell shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")

from effsam_export import models
from effsam_export.matrix import config, run
from effsam_export.matrix.store import Store
from effsam_export.weights.own_file import checkpoint_from_file
from tests.tiny_vit import TINY_VIT, write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.backend

FILE = """
models = ["tiny-vit"]
targets = ["onnx"]
[checkpoints]
tiny-vit = "mine.pt"
"""


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the tiny ViT into the table of models."""
    monkeypatch.setitem(models.MODELS, TINY_VIT.name, ("tests.tiny_vit", "TINY_VIT"))


def planned(folder: Path, more: str = "") -> list[tuple[str, str, str]]:
    """Name, size and key of the size of each cell."""
    (folder / "effsam.toml").write_text(FILE + more, "utf-8")
    build = config.load(folder / "effsam.toml")
    checkpoint = checkpoint_from_file(folder / "mine.pt", None)
    cells = run.plan(build, {"tiny-vit": checkpoint}, Store(folder / "store"), run.Limits())
    return [(c.cell.name, c.job.image_size, c.parts["model.image_size"]) for c in cells]


def test_the_size_of_a_checkpoint_is_that_of_its_cell(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "mine.pt", 192)
    assert planned(tmp_path) == [("tiny-vit-onnx-fp32", "192", "192")]
    sizes = '[image_size]\ntiny-vit = [96, "128x64"]\n'
    assert planned(tmp_path, sizes) == [
        ("tiny-vit-96-onnx-fp32", "96", "96"),
        ("tiny-vit-128x64-onnx-fp32", "128x64", "128x64"),
    ]


def test_a_checkpoint_that_cannot_be_read_fails_in_its_own_cell(tmp_path: Path) -> None:
    """A build of several models goes on: the plan does not raise."""
    import torch

    torch.save({"a": 1}, tmp_path / "mine.pt")
    assert planned(tmp_path) == [("tiny-vit-onnx-fp32", "", "128")]
