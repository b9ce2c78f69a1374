"""A model through lint, and the command."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("torch")
from torch import Tensor, nn
from typer.testing import CliRunner

from effsam_export.cli import app
from effsam_export.errors import CheckFailed, UsageError
from effsam_export.lint.check import LintRequest, lint
from effsam_export.models.sam.components import as_sam
from effsam_export.spec.model import ComponentSpec, KeepFp32
from tests.lint.tools import target
from tests.small import SMALL_SAM
from tests.tiny import TINY_SAM

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.stages import Checkpoint

pytestmark = pytest.mark.backend


class Plain(nn.Module):
    """SAM's mask decoder as its authors wrote it, on embedded prompts made of the points."""

    def __init__(self, sam: nn.Module) -> None:
        super().__init__()
        self.sam = as_sam(sam)

    def forward(
        self, image: Tensor, coords: Tensor, labels: Tensor, mask: Tensor, has: Tensor
    ) -> tuple[Tensor, Tensor]:
        encoder = self.sam.prompt_encoder
        sparse = encoder.pe_layer.encode(coords) + 0 * labels.unsqueeze(-1)
        dense = encoder.mask_downscaling(mask) * has.reshape(-1, 1, 1, 1)
        out: tuple[Tensor, Tensor] = self.sam.mask_decoder(image, encoder.dense_pe(), sparse, dense)
        return out


def plain_decoder() -> ComponentSpec:
    return replace(TINY_SAM.component("decoder"), wrap=Plain, fixed=None)


PLAIN_SAM = replace(TINY_SAM, components=(TINY_SAM.component("encoder"), plain_decoder()))


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx", "onnx", "openvino"])
def test_the_export_form_is_clean_where_shapes_may_be_dynamic(backend: str) -> None:
    report = lint(LintRequest(model=TINY_SAM, target=target(backend, "fp32")))

    assert report.findings == ()
    assert report.passed


@pytest.mark.parametrize(
    ("backend", "options"),
    [("coreml", {}), ("tflite", {"max_rank": 4}), ("tflite", {"delegate": "gpu", "max_rank": 4})],
    ids=["Core ML", "TFLite", "GPU delegate"],
)
def test_the_fixed_export_form_is_clean(backend: str, options: dict[str, Any]) -> None:
    report = lint(LintRequest(model=TINY_SAM, target=target(backend, "fp32", slots=4, **options)))

    assert report.findings == ()


def test_dynamic_shapes_are_refused_where_sizes_are_fixed() -> None:
    report = lint(LintRequest(model=TINY_SAM, target=target("coreml", "fp32")))

    assert not report.passed
    assert [(f.rule, f.node, f.detail) for f in report.findings] == [
        ("dynamic-input", name, f"`{name}` is {shape}")
        for name, shape in (
            ("point_coords", "promptsxpointsx2"),
            ("point_labels", "promptsxpoints"),
            ("mask_input", "promptsx1x256x256"),
            ("has_mask_input", "prompts"),
        )
    ]


def test_the_authors_decoder_repeats_the_image() -> None:
    report = lint(LintRequest(model=PLAIN_SAM, target=target("tensorrt", "fp32")))

    assert [(f.rule, f.severity, f.component, f.node, f.op) for f in report.findings] == [
        (
            "repeat-interleave",
            "error",
            "decoder",
            node,
            "aten.repeat_interleave.self_int",
        )
        for node in ("repeat_interleave", "repeat_interleave_1")
    ]
    first = report.findings[0]
    assert first.module == "sam.mask_decoder"
    assert first.source.startswith("models/sam/mask_decoder.py:")
    assert "torch.repeat_interleave(image_embeddings, batch, dim=0)" in first.source
    assert "OneHot and Tile" in first.why
    assert first.rewrite == "broadcast: a batch of one and a batch of B need no copies"


def test_fp16_without_weights_reports_that_nothing_was_measured() -> None:
    report = lint(LintRequest(model=TINY_SAM, target=target("onnx", "fp16")))

    assert report.not_measured == "no weights"
    assert report.measured == ()
    assert {f.rule for f in report.findings} == {"tiny-eps"}
    assert report.passed


def test_fp16_with_weights_is_measured_on_an_image(small_checkpoint: Checkpoint) -> None:
    report = lint(
        LintRequest(model=SMALL_SAM, target=target("onnx", "fp16"), checkpoint=small_checkpoint)
    )

    assert report.measured == ("coffee.jpg",)
    assert report.not_measured == ""
    assert report.findings == ()


def test_ranges_can_be_switched_off(tiny_checkpoint: Checkpoint) -> None:
    report = lint(
        LintRequest(
            model=TINY_SAM,
            target=target("onnx", "fp16"),
            checkpoint=tiny_checkpoint,
            ranges=False,
        )
    )

    assert (report.measured, report.not_measured) == ((), "disabled by the caller")


def test_ranges_without_weights_are_refused() -> None:
    with pytest.raises(UsageError) as caught:
        lint(LintRequest(model=TINY_SAM, target=target("onnx", "fp16"), ranges=True))

    assert caught.value.message == "there are no weights of `tiny-sam` to measure ranges with"
    assert caught.value.hint == "`effsam fetch tiny-sam`, or give a file with --checkpoint"


def test_one_component_is_enough(small_checkpoint: Checkpoint) -> None:
    report = lint(
        LintRequest(
            model=SMALL_SAM,
            target=target("onnx", "fp16"),
            checkpoint=small_checkpoint,
            components=("decoder",),
        )
    )

    assert report.components == ("decoder",)
    assert report.measured == ("coffee.jpg",)


def test_a_component_there_is_not() -> None:
    with pytest.raises(UsageError) as caught:
        lint(LintRequest(model=TINY_SAM, target=target(), components=("head",)))

    assert caught.value.message == "model `tiny-sam` has no component `head`"
    assert caught.value.hint == "it has decoder, encoder"


def test_nodes_that_the_recipe_keeps_are_not_reported() -> None:
    keep = KeepFp32(
        component="decoder", modules=("*",), ops=("add",), reason="a test", source="none"
    )
    model = replace(TINY_SAM, precision=(keep,))

    report = lint(LintRequest(model=model, target=target("onnx", "fp16")))

    assert report.findings == ()


def test_a_recipe_that_keeps_nothing_is_refused() -> None:
    keep = KeepFp32(component="encoder", modules=("blocks.*",), reason="a test", source="none")
    model = replace(TINY_SAM, precision=(keep,))

    with pytest.raises(UsageError, match="selects nothing in the graph"):
        lint(LintRequest(model=model, target=target("onnx", "fp16")))


# ------------------------------------------------------------------ the command


def run(*args: str) -> Any:  # noqa: ANN401
    return CliRunner().invoke(app, ["lint", *args])


def test_a_clean_model_says_so_and_what_to_try_next(tiny: None) -> None:
    result = run("tiny-sam", "--target", "onnx", "--precision", "fp32")

    assert result.exit_code == 0
    assert result.stdout == ""
    assert "PASSED  tiny-sam onnx fp32" in result.stderr
    assert "next: effsam export tiny-sam --target onnx --precision fp32" in result.stderr


def test_warnings_pass_and_are_shown_with_place_and_cure(tiny: None) -> None:
    result = run("tiny-sam", "--target", "onnx", "--fp16", "--component", "decoder")

    assert result.exit_code == 0
    assert "note: ranges were not measured: no weights" in result.stderr
    assert "PASSED" not in result.stderr
    assert re.search(r"^WARNINGS  tiny-sam onnx fp16, \d+ warnings?  ", result.stderr, re.MULTILINE)
    first, header, *rows, cure = result.stdout.strip().splitlines()
    assert first.startswith("warning tiny-eps: it is 0 in FP16")
    assert header.split() == ["node", "module", "detail", "source"]
    assert any(
        "mask_decoder.output_upscaling.1" in r and "sam/token_upscaling.py:" in r for r in rows
    )
    assert cure.startswith("  rewrite: scale dividend and divisor by a power of two")


CORE_ML = """
description = "Core ML for a test"
backend = "coreml"
precisions = ["fp32"]
opset = 18
simplify = false
[options]
compute_units = "ALL"
[gates]
fp32 = { mask_iou = 0.999, score_error = 0.001, cosine = 0.99999 }
"""


@pytest.fixture
def phone(tmp_path: Path) -> str:
    """A target file for Core ML without slots."""
    path = tmp_path / "phone.toml"
    path.write_text(CORE_ML, "utf-8")
    return str(path)


def test_errors_fail(tiny: None, phone: str) -> None:
    result = run("tiny-sam", "--target", phone, "--component", "decoder")

    assert isinstance(result.exception, CheckFailed)
    assert result.exception.message == "4 errors in `tiny-sam` for target `phone`"
    assert result.exception.hint == "the table above shows a fix for each"
    assert "FAILED  tiny-sam phone fp32" in result.stderr
    assert result.stdout.startswith("error dynamic-input: this target needs fixed sizes")


def test_an_option_takes_the_place_of_the_targets_own(tiny: None, phone: str) -> None:
    result = run("tiny-sam", "--target", phone, "--component", "decoder", "--option", "slots=4")

    assert result.exit_code == 0
    assert result.stdout == ""


def test_json_holds_everything(tiny: None) -> None:
    result = run("tiny-sam", "--target", "onnx", "--fp16", "--json", "--quiet")

    document = json.loads(result.stdout)
    assert document["passed"] is True
    assert document["components"] == ["encoder", "decoder"]
    assert document["not_measured"] == "no weights"
    assert "tiny-eps" in document["rules"]
    assert set(document["findings"][0]) == {
        "rule",
        "severity",
        "component",
        "node",
        "op",
        "module",
        "source",
        "detail",
        "why",
        "rewrite",
    }


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("tiny-sma", "--target", "onnx"), "unknown model `tiny-sma`"),
        (("tiny-sam", "--target", "onxx"), "unknown target `onxx`"),
        (
            ("tiny-sam", "--target", "onnx", "-c", "head"),
            "model `tiny-sam` has no component `head`",
        ),
        (
            ("tiny-sam", "--target", "onnx", "--fp16", "--ranges"),
            "there are no weights of `tiny-sam` to measure ranges with",
        ),
    ],
    ids=["model", "target", "component", "ranges"],
)
def test_usage_errors(tiny: None, args: tuple[str, ...], message: str) -> None:
    result = run(*args)

    assert isinstance(result.exception, UsageError)
    assert result.exception.message == message
    assert result.exception.exit_code == 2


@pytest.mark.slow
def test_mobile_sam_is_clean_in_fp16(official: Checkpoint) -> None:
    from effsam_export.models.mobile_sam import MOBILE_SAM

    report = lint(LintRequest(model=MOBILE_SAM, target=target("onnx"), checkpoint=official))

    assert report.findings == ()
    assert report.measured == ("coffee.jpg",)


def test_a_checkpoint_file_is_taken(small: None, small_checkpoint: Checkpoint) -> None:
    result = run(
        "small-sam", "--target", "onnx", "--fp16", "--checkpoint", str(small_checkpoint.path)
    )

    assert result.exit_code == 0
    assert "measure" in result.stderr
