"""`effsam.toml`: what it asks for, and everything that is wrong with one at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from effsam_export import models
from effsam_export.errors import UsageError
from effsam_export.matrix import config
from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, text: str) -> Path:
    path = folder / "effsam.toml"
    path.write_text(text, "utf-8")
    return path


def names(folder: Path, text: str) -> list[str]:
    return [c.name for c in config.load(write(folder, text)).cells]


def fault(folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as error:
        config.load(write(folder, text))
    return error.value.message


def test_the_least_that_a_file_needs(tmp_path: Path) -> None:
    build = config.load(write(tmp_path, 'models = ["mobile-sam"]\ntargets = ["onnx", "coreml"]'))
    # The precision that each target has first.
    assert [c.name for c in build.cells] == ["mobile-sam-onnx-fp32", "mobile-sam-coreml-fp16"]
    assert build.output == tmp_path / "dist"
    assert build.calibration == "default"
    assert (build.parity, dict(build.checkpoints)) == (None, {})


def test_precisions_that_a_target_lacks_are_left_out(tmp_path: Path) -> None:
    text = (
        'models = ["mobile-sam"]\ntargets = ["onnx", "android-gpu"]\nprecisions = ["fp16", "int8"]'
    )
    found = names(tmp_path, text)
    assert found == [f"mobile-sam-{n}" for n in ("onnx-fp16", "onnx-int8", "android-gpu-fp16")]
    for cell in config.load(tmp_path / "effsam.toml").cells:
        assert cell.profile.precision == cell.precision


def test_all_models(tmp_path: Path) -> None:
    found = names(tmp_path, 'models = ["all"]\ntargets = ["onnx"]')
    assert found == [f"{m}-onnx-fp32" for m in models.names()]


def test_cells_are_left_out_by_any_of_their_names(tmp_path: Path) -> None:
    text = """
models = ["mobile-sam", "edge-sam"]
targets = ["onnx", "openvino"]
precisions = ["fp32", "fp16"]
leave_out = [{ model = "edge-sam", target = "onnx" }, { precision = "fp16", target = "openvino" }]
"""
    assert names(tmp_path, text) == [
        "mobile-sam-onnx-fp32",
        "mobile-sam-onnx-fp16",
        "mobile-sam-openvino-fp32",
        "edge-sam-openvino-fp32",
    ]


def test_a_checkpoint_may_be_a_table(tmp_path: Path) -> None:
    for name in ("decoder.pt", "whole.pt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "adapter").mkdir()
    text = """
models = ["mobile-sam"]
targets = ["onnx"]
[checkpoints.mobile-sam]
file = "decoder.pt"
base = "whole.pt"
lora = "adapter"
key = "model"
lora_alpha = 8
"""
    assert config.load(write(tmp_path, text)).checkpoints["mobile-sam"] == config.OwnWeights(
        file=tmp_path / "decoder.pt",
        key="model",
        base=tmp_path / "whole.pt",
        lora=tmp_path / "adapter",
        lora_alpha=8,
    )


@pytest.mark.parametrize(
    "row",
    [
        '{ base = "a.pt" }',
        '{ file = "a.pt", prefix = "b" }',
        "{ file = 3 }",
        '{ file = "a.pt", lora_alpha = "8" }',
        '{ file = "a.pt", lora_alpha = nan }',
        '{ file = "a.pt", key = "" }',
        "3",
    ],
)
def test_a_checkpoint_of_another_form(tmp_path: Path, row: str) -> None:
    text = f"""
models = ["mobile-sam"]
targets = ["onnx"]
checkpoints = {{ mobile-sam = {row} }}
"""
    with pytest.raises(UsageError, match="`checkpoints` needs a path for each name, or a table"):
        config.load(write(tmp_path, text))


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "mine.pt").write_bytes(b"x")
    (tmp_path / "photos").mkdir()
    board = tmp_path / "board.toml"
    from effsam_export.config.toml import data_dir

    board.write_bytes((data_dir("targets") / "onnx.toml").read_bytes())
    text = """
models = ["mobile-sam"]
targets = ["board.toml"]
output = "out"
parity = "mine.toml"
calibration = "photos"
checkpoints = { mobile-sam = "w/mine.pt" }
"""
    build = config.load(write(tmp_path, text))
    assert build.checkpoints["mobile-sam"] == config.OwnWeights(file=tmp_path / "w" / "mine.pt")
    assert build.output == tmp_path / "out"
    assert build.parity == tmp_path / "mine.toml"
    assert build.calibration == str(tmp_path / "photos")
    (cell,) = build.cells
    assert cell.name == "mobile-sam-board-fp32"
    assert cell.profile.name == "board"


def test_options_go_to_their_target(tmp_path: Path) -> None:
    text = """
models = ["mobile-sam"]
targets = ["coreml", "onnx"]
[options.coreml]
slots = 4
image_input = true
"""
    coreml, onnx = config.load(write(tmp_path, text)).cells
    assert coreml.profile.options["slots"] == 4
    assert coreml.profile.options["image_input"] is True
    assert dict(onnx.options) == {}


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    text = """
models = ["mobil-sam", "edge-sam"]
targets = ["onnx", "openvin"]
checkpoints = { edge-sam = "absent.pt", sam-vit-b = "other.pt" }
[options.tflite]
slots = 4
"""
    message = fault(tmp_path, text)
    assert "unknown model `mobil-sam` (did you mean `mobile-sam`" in message
    assert "unknown target `openvin` (did you mean `openvino`" in message
    assert "absent.pt` does not exist" in message
    assert "checkpoint of `sam-vit-b`, which is not built" in message
    assert "options of `tflite`, which is not a target" in message
    assert message.count("openvin`") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "`models` is missing; `targets` is missing"),
        ('models = []\ntargets = ["onnx"]', "`models` needs at least one name"),
        ('models = [1]\ntargets = ["onnx"]', "`models` needs at least one name"),
        ('models = "all"\ntargets = ["onnx"]', "`models` is not of type list"),
        ('models = ["all"]\ntargets = ["onnx"]\nprecision = "fp16"', "unknown key `precision`"),
        (
            'models = ["edge-sam"]\ntargets = ["onnx"]\nprecisions = ["fp61"]',
            "unknown precision `fp61`",
        ),
        (
            'models = ["edge-sam"]\ntargets = ["onnx"]\nleave_out = [{ modell = "x" }]',
            "`leave_out` needs tables with model, target, precision",
        ),
        (
            'models = ["edge-sam"]\ntargets = ["onnx"]\nleave_out = [{ target = "onnx" }]',
            "nothing is left to build",
        ),
        ('models = ["edge-sam", "edge-sam"]\ntargets = ["onnx"]', "occurs twice"),
        (
            'models = ["edge-sam"]\ntargets = ["onnx"]\n[options.onnx]\nslots = 4',
            "unknown option of backend `onnx`",
        ),
        (
            'models = ["edge-sam"]\ntargets = ["onnx"]\ncheckpoints = { edge-sam = 1 }',
            "`checkpoints` needs a path for each name",
        ),
    ],
)
def test_faults(tmp_path: Path, text: str, message: str) -> None:
    assert message in fault(tmp_path, text)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        config.load(tmp_path / "effsam.toml")


def test_some_cells_by_name(tmp_path: Path) -> None:
    text = 'models = ["mobile-sam"]\ntargets = ["onnx"]\nprecisions = ["fp32", "fp16", "int8"]'
    build = config.load(write(tmp_path, text))
    assert config.select_cells(build, None) == build
    some = config.select_cells(build, ["mobile-sam-onnx-int8", "mobile-sam-onnx-fp32"])
    assert [c.precision for c in some.cells] == ["fp32", "int8"]
    with pytest.raises(UsageError, match="unknown cell `mobile-sam-onnx-fp61`") as error:
        config.select_cells(build, ["mobile-sam-onnx-fp61"])
    assert "mobile-sam-onnx-fp16" in str(error.value.hint)


def test_the_repositorys_own_file() -> None:

    build = config.load(REPOSITORY / "effsam.toml")
    assert len(build.cells) == 6 * 3 - 1


BATCHED = 'models = ["mobile-sam", "edge-sam"]\ntargets = ["onnx", "coreml"]\n[batch]\n'


def test_batches(tmp_path: Path) -> None:
    build = config.load(write(tmp_path, BATCHED + "mobile-sam = [1, 4]"))
    assert [(c.name, c.batch) for c in build.cells] == [
        ("mobile-sam-b1-onnx-fp32", "1"),
        ("mobile-sam-b4-onnx-fp32", "4"),
        ("mobile-sam-b1-coreml-fp16", "1"),
        ("mobile-sam-b4-coreml-fp16", "4"),
        ("edge-sam-onnx-fp32", ""),
        ("edge-sam-coreml-fp16", ""),
    ]
    only = 'mobile-sam = "dynamic"\n[[leave_out]]\nmodel = "mobile-sam"\ntarget = "coreml"'
    assert names(tmp_path, BATCHED + only)[0] == "mobile-sam-bdynamic-onnx-fp32"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mobile-sam = 0", "a batch has to be 1 to 64 images, not 0"),
        ('mobile-sam = "many"', "batch of `mobile-sam` is `many`, not a number of images"),
        ("sam-vit-b = 4", "batch of `sam-vit-b`, which is not built"),
        ("mobile-sam = true", "`batch` needs a number of images or `dynamic`"),
        (
            'mobile-sam = "dynamic"',
            "`mobile-sam-bdynamic-coreml-fp16`: target `coreml` takes fixed shapes only",
        ),
    ],
)
def test_batches_that_are_wrong(tmp_path: Path, line: str, message: str) -> None:
    assert message in fault(tmp_path, BATCHED + line)


SIZED = 'models = ["mobile-sam", "edge-sam"]\ntargets = ["onnx"]\n[image_size]\n'


def test_sizes_of_input(tmp_path: Path) -> None:
    """A size is in the name of its cell; a model without one has that of its checkpoint."""
    build = config.load(write(tmp_path, SIZED + "mobile-sam = [512, 1024]"))
    found = [(c.name, c.image_size) for c in build.cells]
    assert found == [
        ("mobile-sam-512-onnx-fp32", "512"),
        ("mobile-sam-1024-onnx-fp32", "1024"),
        ("edge-sam-onnx-fp32", ""),
    ]
    assert names(tmp_path, SIZED + 'edge-sam = "256"')[1] == "edge-sam-256-onnx-fp32"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mobile-sam = 500", "has to be a multiple of 16"),
        ('mobile-sam = "small"', "image_size of `mobile-sam` is `small`, not a size in pixels"),
        ("mobile-sam = [512, 512]", "`mobile-sam-512-onnx-fp32` occurs twice"),
        ("sam-vit-b = 512", "image_size of `sam-vit-b`, which is not built"),
        ("mobile-sam = true", "`image_size` needs a size, or a list of sizes, for each name"),
        ("mobile-sam = []", "`image_size` needs a size, or a list of sizes, for each name"),
        ("mobile-sam = [[512]]", "`image_size` needs a size, or a list of sizes, for each name"),
    ],
)
def test_sizes_that_are_wrong(tmp_path: Path, line: str, message: str) -> None:
    assert message in fault(tmp_path, SIZED + line)
