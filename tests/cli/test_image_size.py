"""`--image-size` from the export to the generated code, on a tiny ViT whose tables show a size."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from effsam_export import cli, models
from effsam_export.bundle import read
from effsam_export.errors import CheckpointError, EffsamError
from effsam_export.models.sam.components import as_sam
from effsam_export.pipeline import run as pipeline
from effsam_export.weights import checkpoint
from effsam_export.weights.own_file import checkpoint_from_file
from tests.bundle.fake import manifest_of
from tests.integrate.tools import generate
from tests.integrate.tools import run as execute
from tests.mask_tokens import with_masks
from tests.tiny_vit import TINY_VIT, write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from effsam_export.pipeline.plan import ExportPlan
    from effsam_export.spec.stages import Checkpoint

    Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.backend


@pytest.fixture
def effsam(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Run:
    """Run a command with the tiny ViT in the table; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(models.MODELS, TINY_VIT.name, ("tests.tiny_vit", "TINY_VIT"))

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["effsam", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_a_file_for_192_pixels_and_three_masks_in_a_rectangle(
    effsam: Run, tmp_path: Path, parity_file: Path, photo: Path
) -> None:
    """With resized tables and three masks, parity holds, and whoever reads the bundle has both."""
    pytest.importorskip("onnxruntime")
    whole = checkpoint.read_state_dict(write_checkpoint(tmp_path / "whole.pt", 192))
    file = tmp_path / "mine.pt"
    torch.save(with_masks(dict(whole), 3), file)
    given = ("--checkpoint", file, "--parity", parity_file)
    code, out, err = effsam("export", "tiny-vit", "-t", "onnx", "--image-size", "160x128", *given)
    assert code == 0, err
    assert "position tables" not in err
    bundle = tmp_path / out.strip()
    assert bundle.name == "tiny-vit-160x128-onnx-fp32"
    manifest = manifest_of(bundle)
    assert manifest["preprocess"]["image_size"] == [160, 128]
    assert manifest["preprocess"]["resize"]["longest_side"] is None
    assert manifest["prompts"]["coordinates"]["size"] == [160, 128]
    assert manifest["masks"]["low_res_size"] == [40, 32]
    assert manifest["masks"]["multimask"] == [1, 2]
    model = read.read(bundle).model
    assert model.preprocess.image_size == (160, 128)
    assert model.masks.multimask == (1, 2)
    assert "160x128 (height x width)" in (bundle / "README.md").read_text("utf-8")

    code, _, err = effsam("verify", bundle, "--level", "full", *given)
    assert code == 0, err

    asked = ("run", bundle, photo, "--point", "60,40")
    assert effsam(*asked, "--masks", "first.npz")[0] == 0
    with np.load("first.npz") as saved:
        assert saved["low_res_masks"].shape == (2, 40, 32)
    code, _, err = effsam(*asked, "--mask-input", "first.npz")
    assert code == 0, err

    written = generate(manifest, "python", tmp_path / "code")
    done = execute([sys.executable, "selftest.py", str(bundle)], written)
    assert done.stdout.endswith("PASSED\n"), done.stdout + done.stderr


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[ExportPlan]:
    """The plans of exports, none of which is run."""
    plans: list[ExportPlan] = []

    def run(plan: ExportPlan, on_event: object) -> NoReturn:
        plans.append(plan)
        raise EffsamError("not run")

    monkeypatch.setattr(pipeline, "run", run)
    return plans


def test_the_size_that_a_file_shows(effsam: Run, tmp_path: Path, planned: list[ExportPlan]) -> None:
    file = write_checkpoint(tmp_path / "mine.pt", 192)
    command = ("export", "tiny-vit", "-t", "onnx", "--checkpoint", file)
    for more in ((), ("--image-size", "96")):
        _, _, err = effsam(*command, *more)
        assert ("note: the position tables of `mine.pt` are for 192 pixels" in err) == (not more)
    assert [p.model.preprocess.image_size for p in planned] == [192, 96]
    assert [p.dynamic_model.masks.low_res_size for p in planned] == [48, 24]
    module = checkpoint.load(planned[0].model, planned[0].weights)
    assert as_sam(module).embedding_size == 12


def test_the_size_of_a_base(effsam: Run, tmp_path: Path, planned: list[ExportPlan]) -> None:
    """A decoder alone shows no size; the whole checkpoint under it does."""
    whole = write_checkpoint(tmp_path / "whole.pt", 192)
    state = torch.load(whole, weights_only=True)
    torch.save({n: v for n, v in state.items() if n.startswith("mask_decoder.")}, "decoder.pt")
    command = ("export", "tiny-vit", "-t", "onnx", "--checkpoint", "decoder.pt", "--base", whole)
    for more in ((), ("--image-size", "96x64")):
        effsam(*command, *more)
    assert [p.model.preprocess.image_size for p in planned] == [192, (96, 64)]
    for plan in planned:
        checkpoint.load(plan.model, plan.weights)


def test_a_file_of_another_size_is_not_silently_resized(tmp_path: Path) -> None:
    """The library alone, without a size: the tables have to be those of the model."""
    file = checkpoint_from_file(write_checkpoint(tmp_path / "mine.pt", 192), None)
    with pytest.raises(CheckpointError) as refused:
        checkpoint.load(TINY_VIT, file)
    assert "pos_embed" in f"{refused.value.message} {refused.value.hint}"


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("100", "a multiple of 16 from 64 to 2048 pixels, not 100"),
        ("1e2", "--image-size `1e2` is not a size in pixels"),
        ("96x", "--image-size `96x` is not a size in pixels"),
        ("", "is not a size in pixels"),
    ],
)
def test_a_wrong_size(effsam: Run, tmp_path: Path, size: str, message: str) -> None:
    code, _, err = effsam("export", "tiny-vit", "-t", "onnx", "--image-size", size, "--dry-run")
    assert code == 2
    assert message in err
    assert "hint:" in err


def test_dry_run_shows_the_size(effsam: Run, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    file = write_checkpoint(tmp_path / "mine.pt", 96)
    command = ("export", "tiny-vit", "-t", "onnx", "--dry-run", "--json", "--checkpoint", file)
    code, out, err = effsam(*command)
    assert code == 0
    assert "note: the position tables of `mine.pt` are for 96 pixels" in err
    assert json.loads(out)["plan"]["image_size"] == "96"
    code, out, _ = effsam(*command, "--image-size", "96")
    assert code == 0
    plan = json.loads(out)["plan"]
    assert (plan["image_size"], plan["output"]) == ("96", "tiny-vit-96-onnx-fp32")


def test_a_checkpoint_that_shows_no_size(
    effsam: Run, small: None, small_checkpoint: Checkpoint, planned: list[ExportPlan]
) -> None:
    path = small_checkpoint.path
    command = ("export", "small-sam", "-t", "onnx", "--checkpoint", path)
    said = "a checkpoint of small-sam does not show the size of its images: 256 pixels is taken"
    assert said in effsam(*command)[2]
    assert said not in effsam(*command, "--image-size", "128")[2]
    assert [p.model.preprocess.image_size for p in planned] == [256, 128]
