"""The benchmark against plain conversions: its modules and its ratios."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from torch import Tensor, nn

from benchmarks import defaults, plain
from effsam_export.models.sam.components import SAM_DECODER, SAM_PREPROCESS, as_sam
from effsam_export.spec.prompts import Point, Prompt, Sample
from tests.tiny import build

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.backend

PLAIN = defaults.Row(
    component="encoder",
    runtime="onnx",
    name="onnx plain",
    kind="plain",
    bytes=200,
    median_s=0.2,
    minimum_s=0.1,
    max_abs=1e-6,
)
OURS = replace(PLAIN, name="onnx fp32", kind="ours", bytes=100, median_s=0.1, minimum_s=0.08)


class Twice(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2 + y, y - x


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


def test_the_plain_decoder_equals_the_reference() -> None:
    sam = as_sam(build())
    embeddings = np.random.default_rng(0).standard_normal((1, 256, 64, 64)).astype(np.float32)
    sample = Sample(
        image=np.zeros((1, 1, 3), dtype=np.uint8),
        embeddings=embeddings,
        prompt=Prompt(points=(Point(x=100, y=200),)),
    )
    wanted = SAM_DECODER.reference(sam, sample)
    with torch.inference_mode():
        masks, iou = plain.PlainDecoder(sam)(
            torch.from_numpy(embeddings), torch.tensor([[[100.0, 200.0]]]), torch.ones(1, 1)
        )
    np.testing.assert_array_equal(masks.numpy(), wanted["low_res_masks"])
    np.testing.assert_array_equal(iou.numpy(), wanted["iou_predictions"])


def test_the_plain_encoder_normalises() -> None:
    sam = as_sam(build())
    mean = torch.tensor(SAM_PREPROCESS.pixel_mean).view(1, 3, 1, 1).expand(1, 3, 1024, 1024)
    with torch.inference_mode():
        found = plain.PlainEncoder(sam)(mean)
        wanted = sam.image_encoder(torch.zeros(1, 3, 1024, 1024))
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=1e-6)


@pytest.mark.parametrize("runtime", plain.CONVERTERS)
def test_a_plain_conversion_keeps_the_order_of_tensors(runtime: str, tmp_path: Path) -> None:
    for package in ("openvino", "litert_torch"):
        pytest.importorskip(package)
    inputs = (torch.full((1, 4), 3.0), torch.full((1, 4), 5.0))
    made = plain.convert(runtime, Twice(), inputs, tmp_path / "twice")
    assert not isinstance(made, str), made
    assert plain.size_of(made) > 0
    first, second = plain.open_file(runtime, made)(list(inputs))
    np.testing.assert_array_equal(first.numpy(), np.full((1, 4), 11.0))
    np.testing.assert_array_equal(second.numpy(), np.full((1, 4), 2.0))


def test_a_conversion_that_fails_says_why(tmp_path: Path) -> None:
    found = plain.convert("onnx", Odd(), (torch.ones(2),), tmp_path / "odd")
    assert isinstance(found, str)
    assert found.partition(":")[0].endswith("Error")


def test_ratios_are_ours_to_theirs() -> None:
    theirs, ours = defaults.ratios([PLAIN, OURS])
    assert theirs == ["encoder, onnx plain", "200.0", "-", "-", "-", "1.0e-06", "-", ""]
    assert ours == ["encoder, onnx fp32", "100.0", "0.50", "0.80", "0.50", "1.0e-06", "-", ""]


def test_a_failed_conversion_has_no_ratio() -> None:
    nothing = replace(PLAIN, bytes=0, median_s=None, minimum_s=None, max_abs=None, problem="no op")
    theirs, ours = defaults.ratios([nothing, OURS])
    assert theirs[1:] == ["-", "-", "-", "-", "-", "-", "no op"]
    assert ours[2:5] == ["-", "-", "-"]


def test_the_minimum_iou_of_a_set_counts() -> None:
    wanted = np.ones((1, 2, 4, 4), dtype=np.float32)
    found = wanted.copy()
    found[0, 1, 0] = -1
    assert defaults.min_iou(found, wanted) == 0.75
