"""The size of input that the checkpoint of a build's cell shows, and the cell's batch."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, NoReturn

import pytest

pytest.importorskip("torch")

import torch

from effsam_export import models
from effsam_export.errors import CheckFailed
from effsam_export.matrix import config, run, worker
from effsam_export.matrix.store import Store
from effsam_export.pipeline import run as pipeline
from effsam_export.spec.sizes import text_of
from effsam_export.weights.own_file import checkpoint_from_file
from tests import small
from tests.tiny_vit import TINY_VIT, write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.pipeline.request import ExportRequest
    from effsam_export.util.progress import OnEvent

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


def planned(folder: Path, more: str = "") -> list[run.PlannedCell]:
    """The cells of a build file."""
    (folder / "effsam.toml").write_text(FILE + more, "utf-8")
    build = config.load(folder / "effsam.toml")
    checkpoint = checkpoint_from_file(folder / "mine.pt", None)
    return run.plan(build, {"tiny-vit": checkpoint}, Store(folder / "store"), run.Limits())


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sizes of the models that workers of this test export."""
    sizes: list[str] = []

    def export(request: ExportRequest, on_event: OnEvent) -> NoReturn:
        sizes.append(text_of(request.model.preprocess.image_size))
        raise CheckFailed("not exported")

    monkeypatch.setattr(pipeline, "export", export)
    return sizes


def test_the_size_of_a_checkpoint_is_that_of_its_cell(tmp_path: Path, exported: list[str]) -> None:
    write_checkpoint(tmp_path / "mine.pt", 192)
    sizes = '[image_size]\ntiny-vit = [96, 192, "128x64"]\n'
    cells = [*planned(tmp_path), *planned(tmp_path, sizes)]
    assert [cell.cell.name for cell in cells] == [
        "tiny-vit-onnx-fp32",
        "tiny-vit-96-onnx-fp32",
        "tiny-vit-192-onnx-fp32",
        "tiny-vit-128x64-onnx-fp32",
    ]
    for cell in cells:
        worker.export_cell(cell.job, tmp_path)
    assert exported == ["192", "96", "192", "128x64"]
    # The size of another checkpoint is another one, the size that is asked for is not.
    assert len({cell.digest for cell in cells}) == len(cells)


def test_a_checkpoint_that_cannot_be_read_fails_in_its_own_cell(
    tmp_path: Path, exported: list[str]
) -> None:
    """A build of several models goes on: the plan does not raise."""
    torch.save({"a": 1}, tmp_path / "mine.pt")
    (cell,) = planned(tmp_path)
    outcome = worker.export_cell(cell.job, tmp_path)
    assert outcome.state == "refused"
    assert "mine.pt" in outcome.message
    assert exported == []


def test_a_plan_does_not_import_torch(tmp_path: Path) -> None:
    """A build that finds everything in its cache takes a second."""
    small.write_checkpoint(tmp_path / "mine.pt")
    (tmp_path / "effsam.toml").write_text(
        'models = ["mobile-sam"]\ntargets = ["onnx"]\n[checkpoints]\nmobile-sam = "mine.pt"\n',
        "utf-8",
    )
    code = (
        "import sys; from effsam_export.cli import app\n"
        f"try: app(['build', {str(tmp_path / 'effsam.toml')!r}, '--plan'])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_batch_of_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker keeps it when it finds that the checkpoint shows another size."""
    write_checkpoint(tmp_path / "mine.pt", 192)
    (cell,) = planned(tmp_path, "[batch]\ntiny-vit = 2\n")
    assert (cell.cell.name, cell.parts["model.batch"]) == ("tiny-vit-b2-onnx-fp32", "2")
    requests: list[ExportRequest] = []

    def export(request: ExportRequest, on_event: OnEvent) -> NoReturn:
        requests.append(request)
        raise CheckFailed("not exported")

    monkeypatch.setattr(pipeline, "export", export)
    worker.export_cell(cell.job, tmp_path)
    assert requests[0].model.components[0].inputs[0].shape == (2, 3, 192, 192)
