"""INT8 through the command line on the small model: bundle, receipt, repeatability, refusals."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from effsam_export import cli, models
from effsam_export.backends.receipt import check_int8
from effsam_export.config import calibration, int8_recipe
from effsam_export.config.targets import load_target
from effsam_export.errors import CheckFailed, EffsamError, UnknownNameError, UsageError
from effsam_export.models import image_sizes
from effsam_export.pipeline import export_model
from effsam_export.pipeline.int8 import search_of, settled, unmeasured
from effsam_export.pipeline.request import ExportRequest, Int8Request, Int8Search
from effsam_export.spec.int8 import Int8Recipe
from effsam_export.spec.stages import Checkpoint
from effsam_export.util.files import sha256_of
from tests.paths import REPOSITORY

pytestmark = pytest.mark.usefixtures("small")

LOOSE = """
description = "ONNX, with gates that anything passes"
backend = "onnx"
precisions = ["int8"]
opset = 18
simplify = false
[options]
[gates]
int8 = { mask_iou = 0.0, score_error = 1.0, cosine = 0.0 }
"""
DEFAULT = REPOSITORY / "calibration" / "int8" / "default.toml"
ONE_PROMPT = f"""
[[images]]
file = "{(REPOSITORY / "calibration" / "images" / "coffee.jpg").as_posix()}"
prompts = [{{ name = "cup", box = [320, 215, 412, 332] }}]
"""


def arguments(folder: Path, checkpoint: Checkpoint, out: str, *more: str) -> list[str]:
    target = folder / "loose.toml"
    target.write_text(LOOSE, "utf-8")
    (folder / "parity.toml").write_text(ONE_PROMPT, "utf-8")
    place = ["--checkpoint", str(checkpoint.path), "-o", str(folder / out)]
    place += ["--parity", str(folder / "parity.toml")]
    searched = {"--int8-recipe", "--optimize", "--budget"} & set(more)
    place += [] if searched else ["--int8-recipe", str(DEFAULT)]
    return ["export", "small-sam", "-t", str(target), "--num-samples", "4", *place, *more]


def export(folder: Path, checkpoint: Checkpoint, out: str, *more: str) -> Path:
    result = CliRunner().invoke(cli.app, arguments(folder, checkpoint, out, *more))
    assert result.exit_code == 0, result.output + str(result.exception)
    return folder / out


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A bundle with the default recipe, and what the command printed besides."""

    bundle: Path
    messages: str

    @property
    def manifest(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.bundle / "manifest.json").read_text("utf-8"))
        return document


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Checkpoint) -> Exported:
    """Made once; tests read it."""
    folder = tmp_path_factory.mktemp("int8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "small-sam", ("tests.small", "SMALL_SAM"))
        result = CliRunner().invoke(cli.app, arguments(folder, small_checkpoint, "bundle"))
    assert result.exit_code == 0, result.output + str(result.exception)
    return Exported(bundle=folder / "bundle", messages=result.stderr)


def test_a_manifest_lists_what_was_quantized_and_the_calibration_images(exported: Exported) -> None:
    manifest = exported.manifest
    assert manifest["precision"]["requested"] == "int8"
    assert manifest["precision"]["elements_by_dtype"]["encoder"]["int8"] > 190_000
    assert "int8" not in manifest["precision"]["elements_by_dtype"]["decoder"]
    assert manifest["int8"]["components"]["encoder"]["scheme"] == "w8a8"
    assert manifest["int8"]["components"]["decoder"]["scheme"] == "fp16"
    calibration = manifest["int8"]["calibration"]
    assert (calibration["num_samples"], calibration["seed"]) == (4, 0)
    assert calibration["threads"] == torch.get_num_threads()
    assert calibration["images"][0]["file"] == "china.jpg"
    assert all(len(i["sha256"]) == 64 for i in calibration["images"])


def test_a_bundle_compares_int8_with_fp16_and_fp32(exported: Exported) -> None:
    assert "compare encoder" in exported.messages
    assert "compare decoder" not in exported.messages
    page = unescape((exported.bundle / "report.html").read_text("utf-8"))
    assert "INT8 compared with FP16 and FP32" in page
    assert "of FP32's size" in page
    assert [v["file"] for v in exported.manifest["nondeterministic_files"]] == ["report.html"]


def test_the_same_images_and_seed_give_the_same_bytes(
    exported: Exported, tmp_path: Path, small_checkpoint: Checkpoint
) -> None:
    again = export(tmp_path, small_checkpoint, "again")
    for name in ("encoder.onnx", "decoder.onnx"):
        assert sha256_of(exported.bundle / name) == sha256_of(again / name)


def test_a_batch_has_the_numbers_of_one_image(
    exported: Exported, tmp_path: Path, small_checkpoint: Checkpoint
) -> None:
    """Weights, scales and zero points; only the shapes of tensors are others."""
    import onnx

    bundle = export(tmp_path, small_checkpoint, "two", "--batch", "2")
    found, wanted = (
        {
            t.name: onnx.numpy_helper.to_array(t).tolist()
            for t in onnx.load(path / "encoder.onnx").graph.initializer
            if t.data_type != onnx.TensorProto.INT64
        }
        for path in (bundle, exported.bundle)
    )
    assert len(wanted) > 4
    assert found == wanted


def test_weights_are_rounded_before_they_are_quantized(
    exported: Exported, tmp_path: Path, small_checkpoint: Checkpoint
) -> None:
    recipe = tmp_path / "rounded.toml"
    recipe.write_text(
        '[encoder.default]\nscheme = "weight_only"\nrounding = "coordinate-descent"\n'
        '[decoder.default]\nscheme = "weight_only"\n'
        "equalize = ["
        '{ norm = "norm2", layer = "mlp.lin1", alpha = 0.5 }, '
        '{ norm = "nowhere", layer = "mlp.lin1", alpha = 0.5 }]\n'
    )
    asked = ("--int8-recipe", str(recipe))
    result = CliRunner().invoke(cli.app, arguments(tmp_path, small_checkpoint, "x", *asked))
    assert isinstance(result.exception, EffsamError)
    assert "no block has `nowhere` and `mlp.lin1`" in result.exception.message
    recipe.write_text(recipe.read_text("utf-8").split("equalize")[0])
    encoder = (*asked, "--component", "encoder")
    first = export(tmp_path, small_checkpoint, "a", *encoder)
    # The parity check uses the graph with the original weights.
    name = "source/encoder.onnx"
    assert sha256_of(first / name) == sha256_of(exported.bundle / name)
    manifest = json.loads((first / "manifest.json").read_text("utf-8"))
    assert manifest["int8"]["components"]["encoder"]["rounding"] == "coordinate-descent"
    assert "rounding" not in exported.manifest["int8"]


def test_a_decoder_is_calibrated_on_the_encoders_embeddings(
    tmp_path: Path, small_checkpoint: Checkpoint
) -> None:
    recipe = tmp_path / "both.toml"
    recipe.write_text(
        '[encoder.default]\nscheme = "weight_only"\n[decoder.default]\nscheme = "w8a8"\n'
    )
    bundle = export(tmp_path, small_checkpoint, "a", "--int8-recipe", str(recipe))
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    assert manifest["precision"]["elements_by_dtype"]["decoder"]["int8"] > 1_000_000
    assert manifest["int8"]["components"]["decoder"]["scheme"] == "w8a8"
    alone = arguments(
        tmp_path, small_checkpoint, "b", "--int8-recipe", str(recipe), "--component", "decoder"
    )
    result = CliRunner().invoke(cli.app, alone)
    assert isinstance(result.exception, EffsamError)
    assert (
        result.exception.message
        == "the decoder is calibrated on embeddings of the exported encoder"
    )
    assert not (tmp_path / "b").exists()


def test_the_int8_recipe_and_its_warnings_are_printed(exported: Exported) -> None:
    said = exported.messages
    assert "int8 encoder: INT8 weights and activations; minmax ranges" in said
    assert "int8 decoder: stays in FP16" in said
    assert "warning: INT8 accuracy of this model's trained weights is unmeasured" in said
    assert "calibration samples is unmeasured: 4 given" in said


@pytest.mark.parametrize(
    ("size", "sha256", "said"),
    [
        (1024, "official", []),
        (512, "official", ["INT8 accuracy was measured at 1024 pixels, not at 512"]),
        (1024, "0" * 64, ["INT8 accuracy was measured with other weights than `x.pt`"]),
        (512, "0" * 64, ["at 1024 pixels, not at 512", "with other weights"]),
    ],
)
def test_what_was_measured_holds_for_its_weights_and_size(
    size: int, sha256: str, said: list[str]
) -> None:
    model, plan = models.get("mobile-sam"), int8_recipe.load("mobile-sam")
    assert model.weights is not None
    assert plan.checkpoint == model.weights.sha256
    sha256 = plan.checkpoint if sha256 == "official" else sha256
    checkpoint = Checkpoint(path=Path("x.pt"), sha256=sha256, official=False)
    found = unmeasured(plan, image_sizes.resized(model, size), checkpoint)
    assert len(found) == len(said)
    assert all(part in sentence for part, sentence in zip(said, found, strict=True))


def test_the_plan_shows_the_recipe(tmp_path: Path, small_checkpoint: Checkpoint) -> None:
    asked = arguments(tmp_path, small_checkpoint, "a", "--dry-run", "--json")
    plan = json.loads(CliRunner().invoke(cli.app, asked).stdout)["plan"]
    assert plan["int8"]["decoder"] == "stays in FP16"
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), "a search for size finds its recipe, 10 min at most"),
        (("--optimize", "latency"), "a search for latency finds its recipe, 10 min at most"),
        (("--budget", "2.5"), "a search for size finds its recipe, 2.5 min at most"),
    ],
)
def test_the_plan_shows_that_a_recipe_is_searched(
    tmp_path: Path, small_checkpoint: Checkpoint, more: tuple[str, ...], words: str
) -> None:
    asked = arguments(tmp_path, small_checkpoint, "a", "--dry-run", "--json", *more)
    asked = [a for a in asked if a not in ("--int8-recipe", str(DEFAULT))]
    plan = json.loads(CliRunner().invoke(cli.app, asked).stdout)["plan"]
    assert plan["int8"] == {"encoder": words, "decoder": "stays in FP16"}


@pytest.mark.parametrize(
    ("given", "sha256", "size", "searched"),
    [
        (None, "official", 1024, False),
        ("size", "official", 1024, True),
        (None, "official", 512, True),
        (None, "0" * 64, 1024, True),
        (None, None, 1024, True),
    ],
)
def test_a_measured_recipe_needs_no_search(
    given: str | None, sha256: str | None, size: int, searched: bool
) -> None:
    model, plan = models.get("mobile-sam"), int8_recipe.load("mobile-sam")
    request = Int8Request(
        calibration=calibration.load(), plan=plan, search=search_of(given, None, Path("cache"))
    )
    sha256 = plan.checkpoint if sha256 == "official" else sha256
    found = settled(request, image_sizes.resized(model, size), sha256)
    assert (found.search is not None) == searched
    # Files of other models are measured on no official weights.
    other = replace(request, plan=int8_recipe.load("edge-sam"))
    assert settled(other, models.get("edge-sam"), None).search is not None


@pytest.mark.parametrize("target", ["onnx", "anylabeling", "transformers-js"])
def test_an_apps_layout_has_the_measured_size(
    target: str, tmp_path: Path, small_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frame of AnyLabeling is 684x1024, and its encoder that of 1024 pixels."""
    plan = int8_recipe.load("mobile-sam")
    official = replace(small_checkpoint, sha256=plan.checkpoint)
    monkeypatch.setattr(export_model, "acquire", lambda *_, **__: official)
    request = ExportRequest(
        model=models.get("mobile-sam"),
        target=load_target(target, "int8"),
        output=tmp_path / "bundle",
        int8=Int8Request(
            calibration=calibration.load(), plan=plan, search=search_of(None, None, tmp_path)
        ),
    )
    warnings: list[str] = []
    found = export_model.planned(
        request,
        None,
        sized=True,
        accept_license=False,
        cache_dir=tmp_path,
        cache=False,
        on_transfer=None,
        on_note=warnings.append,
        on_warning=warnings.append,
    )
    assert found.int8 is not None
    assert found.int8.search is None
    assert warnings == []


def test_the_values_of_a_search_are_checked() -> None:
    found = search_of("accuracy", 0.5, Path("cache"))
    assert found == Int8Search(
        optimize="accuracy", budget_s=30, folder=Path("cache") / "int8", always=True
    )
    assert search_of(None, None, None).optimize == "size"
    with pytest.raises(UnknownNameError, match="unknown value of --optimize `speed`"):
        search_of("speed", None, None)
    for minutes in (-1, float("nan"), float("inf"), 1e9):
        with pytest.raises(UsageError, match="a search cannot take"):
            search_of(None, minutes, None)


def test_a_given_recipe_is_not_searched(tmp_path: Path, small_checkpoint: Checkpoint) -> None:
    both = ("--int8-recipe", str(DEFAULT), "--optimize", "size", "--budget", "1")
    result = CliRunner().invoke(cli.app, arguments(tmp_path, small_checkpoint, "a", *both))
    assert isinstance(result.exception, UsageError)
    assert result.exception.message == (
        "--optimize and --budget: --int8-recipe gives the recipe, and nothing is searched"
    )


@pytest.mark.parametrize(
    "flag",
    [("--calib", "default"), ("--num-samples", "9"), ("--optimize", "size"), ("--budget", "1")],
)
def test_options_of_int8_are_refused_elsewhere(flag: tuple[str, str]) -> None:
    result = CliRunner().invoke(cli.app, ["export", "small-sam", "-t", "onnx", *flag])
    assert isinstance(result.exception, EffsamError)
    assert result.exception.message == f"{flag[0]}: for int8 only, the precision is fp32"
    assert result.exception.hint == "add --int8"


def test_a_recipe_for_modules_that_are_not_there_leaves_nothing_behind(
    tmp_path: Path, small_checkpoint: Checkpoint
) -> None:
    recipe = tmp_path / "typo.toml"
    text = int8_recipe.to_toml("", {"encoder": Int8Recipe(scheme="w8a8")})
    recipe.write_text(
        text
        + 'overrides = [{ modules = ["imge_encoder"], treatment = "weight_only", reason = "x" }]\n'
    )
    asked = arguments(tmp_path, small_checkpoint, "a", "--int8-recipe", str(recipe))
    result = CliRunner().invoke(cli.app, asked)
    assert isinstance(result.exception, EffsamError)
    assert result.exception.message.endswith("without a layer with weights: imge_encoder")
    assert not (tmp_path / "a").exists()


def test_a_search_writes_a_recipe_that_an_export_takes(
    tmp_path: Path, small_checkpoint: Checkpoint
) -> None:
    start = tmp_path / "bad.toml"
    start.write_text('[encoder.default]\nscheme = "w8a8"\nquantize_activation_products = true\n')
    found = tmp_path / "found.toml"
    place = ["--checkpoint", str(small_checkpoint.path), "-o", str(found)]
    how = ["--int8-recipe", str(start), "--min-iou", "0", "--mean-iou", "0", "--num-samples", "2"]
    (tmp_path / "parity.toml").write_text(ONE_PROMPT, "utf-8")
    place += ["--parity", str(tmp_path / "parity.toml")]
    asked = ["bisect", "small-sam", "-t", "onnx", *how, *place, "--json"]
    result = CliRunner().invoke(cli.app, asked)
    assert result.exit_code == 0, result.output + str(result.exception)
    outcome = json.loads(result.stdout)
    assert outcome["layers"] == 1
    plan = int8_recipe.load("small-sam", found)
    assert plan.recipe("encoder", "onnx").quantize_activation_products
    assert "in " in plan.measured
    assert (plan.checkpoint, plan.image_size) == (small_checkpoint.sha256, "256")
    assert (tmp_path / "found.toml.search.json").is_file()


@pytest.mark.parametrize(
    ("counts", "passes"),
    [
        ({"int8": 90, "float16": 8, "float32": 2}, True),
        ({"int8": 60, "float16": 40}, True),
        ({"int8": 40, "float16": 60}, False),
        ({"int8": 80, "float32": 20}, False),
        ({"float32": 100}, False),
        ({}, False),
    ],
)
def test_a_file_with_few_int8_weights_is_refused(counts: dict[str, int], passes: bool) -> None:
    if passes:
        check_int8("encoder", counts)
        return
    with pytest.raises(CheckFailed, match="the precision is int8, but the file holds"):
        check_int8("encoder", counts)
