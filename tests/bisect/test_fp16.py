"""The search in FP16: on the small model, through the command line, and from a bundle."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from effsam_export import cli, models
from effsam_export.bundle import int8
from effsam_export.cli.bisect import from_bundle, to_start
from effsam_export.config import fp16_recipe, int8_recipe
from effsam_export.errors import CheckFailed, UsageError
from effsam_export.spec.int8 import Int8Recipe, LayerOverride

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.stages import Checkpoint

pytestmark = pytest.mark.usefixtures("small", "shared_stages")

TARGET = """
description = "ONNX, with gates that anything passes"
backend = "onnx"
precisions = ["fp16", "int8"]
opset = 18
simplify = false
[options]
[gates]
fp16 = { mask_iou = 0.0, score_error = 1.0, cosine = 0.0 }
int8 = { mask_iou = 0.0, score_error = 1.0, cosine = 0.0 }
"""


def invoke(folder: Path, checkpoint: Checkpoint, command: str, *more: str) -> tuple[int, str, str]:
    target = folder / "loose.toml"
    target.write_text(TARGET, "utf-8")
    place = ["-t", str(target), "--checkpoint", str(checkpoint.path)]
    result = CliRunner().invoke(cli.app, [command, *more, *place])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def one_prompt(folder: Path, image: Path) -> Path:
    """One small image and one prompt: there are as many evaluations as layers."""
    path = folder / "parity.toml"
    point = '{ name = "point", points = [[60, 40, 1]] }'
    path.write_text(f'[[images]]\nfile = "{image}"\nprompts = [{point}]\n', "utf-8")
    return path


def search(folder: Path, checkpoint: Checkpoint, image: Path, *gate: str) -> dict[str, Any]:
    how = ["-p", "fp16", *gate, "--parity", str(one_prompt(folder, image))]
    output = ["-o", str(folder / "keep.toml"), "--json"]
    code, out, _ = invoke(folder, checkpoint, "bisect", "small-sam", *how, *output)
    assert code == 0
    outcome: dict[str, Any] = json.loads(out)
    return outcome


@dataclass(frozen=True, kw_only=True)
class Searched:
    """A search whose gate the whole model holds in FP16."""

    folder: Path
    outcome: dict[str, Any]


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Checkpoint, photo: Path
) -> Searched:
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "small-sam", ("tests.small", "SMALL_SAM"))
        outcome = search(folder, small_checkpoint, photo, "--min-iou", "0", "--mean-iou", "0")
    return Searched(folder=folder, outcome=outcome)


def test_no_overrides_where_fp16_meets_the_gate(whole: Searched) -> None:
    assert whole.outcome["choices"] == []
    assert whole.outcome["evaluations"] == 1
    assert fp16_recipe.load(whole.folder / "keep.toml", ("encoder", "decoder")) == ()


@pytest.mark.slow
def test_an_export_keeps_the_layers_of_the_search(
    tmp_path: Path, small_checkpoint: Checkpoint, photo: Path, whole: Searched
) -> None:
    before = whole.outcome["before"]
    # Just above what all of FP16 reaches, so that something has to be kept.
    asked = (before["mean_iou"] + 1) / 2
    gate = ("--min-iou", "0", "--mean-iou", str(asked))
    outcome = search(tmp_path, small_checkpoint, photo, *gate)
    choices = outcome["choices"]
    assert 0 < len(choices) < outcome["layers"]
    assert {c["treatment"] for c in choices} == {"keep_float"}
    assert outcome["after"]["mean_iou"] >= asked > before["mean_iou"]
    entries = fp16_recipe.load(tmp_path / "keep.toml", ("encoder", "decoder"))
    assert [f"{e.component}:{e.modules[0]}" for e in entries] == [c["layer"] for c in choices]
    assert all("if only this layer is in FP16" in e.reason for e in entries)
    bundle = tmp_path / "bundle"
    how = ["-p", "fp16", "--keep-fp32", str(tmp_path / "keep.toml"), "-o", str(bundle)]
    how += ["--parity", str(one_prompt(tmp_path, photo))]
    assert invoke(tmp_path, small_checkpoint, "export", "small-sam", *how)[0] == 0
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    kept = manifest["precision"]["keep_fp32"]
    assert sorted(k["modules"] for k in kept) == sorted(list(e.modules) for e in entries)
    assert all(k["recursive"] is False for k in kept)


def test_a_gate_that_fp32_does_not_hold_is_refused(
    tmp_path: Path, small_checkpoint: Checkpoint, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FP32 differs from PyTorch in the last digits of the scores."""
    monkeypatch.setattr(sys.modules[__name__], "TARGET", TARGET.replace("1.0", "0.0"))
    with pytest.raises(CheckFailed, match="no choice of modules meets the gate"):
        search(tmp_path, small_checkpoint, photo)
    assert not (tmp_path / "keep.toml").exists()


# ------------------------------------------------------------------ what it starts from


def test_a_model_needs_a_target() -> None:
    with pytest.raises(UsageError, match="--target is missing"):
        to_start("small-sam", None, None, None)


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_other_precisions_have_nothing_to_search_for(precision: str) -> None:
    with pytest.raises(UsageError, match=f"bisect does not apply to {precision}"):
        to_start("small-sam", "onnx", precision, None)


def test_a_search_goes_on_from_a_bundle(
    tmp_path: Path, small_checkpoint: Checkpoint, photo: Path
) -> None:
    bundle = tmp_path / "bundle"
    prompts = ["--parity", str(one_prompt(tmp_path, photo))]
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(int8_recipe.to_toml("", {"encoder": Int8Recipe(scheme="w8a8")}), "utf-8")
    how = ["-p", "int8", "--num-samples", "2", *prompts, "-o", str(bundle)]
    how += ["--int8-recipe", str(recipe)]
    assert invoke(tmp_path, small_checkpoint, "export", "small-sam", *how)[0] == 0
    start = from_bundle(bundle)
    assert (start.spec.name, start.precision) == ("small-sam", "int8")
    assert start.sha256 == small_checkpoint.sha256
    assert start.plan is not None
    assert start.plan.recipe("encoder", "onnx").scheme == "w8a8"
    found = tmp_path / "found.toml"
    gate = ["--min-iou", "0", "--mean-iou", "0", "--num-samples", "2", *prompts]
    code, out, _ = invoke(
        tmp_path, small_checkpoint, "bisect", str(bundle), *gate, "-o", str(found), "--json"
    )
    assert code == 0
    assert json.loads(out)["choices"] == []


def test_a_bundle_needs_its_own_checkpoint(
    tmp_path: Path, small_checkpoint: Checkpoint, photo: Path
) -> None:
    bundle = tmp_path / "bundle"
    how = ["-p", "fp16", "--parity", str(one_prompt(tmp_path, photo)), "-o", str(bundle)]
    assert invoke(tmp_path, small_checkpoint, "export", "small-sam", *how)[0] == 0
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    manifest["checkpoint"]["sha256"] = "0" * 64
    path.write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(UsageError, match="the bundle's checkpoint is 000000000000"):
        invoke(tmp_path, small_checkpoint, "bisect", str(bundle), "-o", str(tmp_path / "f.toml"))


def test_recipes_of_a_manifest_are_read_back() -> None:
    recipe = Int8Recipe(
        scheme="w8a8",
        method="mse",
        quantize_activation_products=True,
        overrides=(
            LayerOverride(modules=("a", "b*"), treatment="weight_only", reason="r", source="s"),
        ),
    )
    entry = {"components": {"encoder": int8._recipe(recipe)}}
    assert int8.plan(entry).recipe("encoder", "openvino") == recipe
    assert int8.plan(entry).recipe("decoder", "openvino").scheme == "fp16"
