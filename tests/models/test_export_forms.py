"""The export forms, eager, against the reference they were made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from effsam_export.models.mobile_sam import ENCODER
from effsam_export.models.sam.components import (
    SAM_DECODER,
    SAM_PREPROCESS,
    stack_decoder_feeds,
)
from effsam_export.models.sam.layers import LayerNorm2d
from effsam_export.models.sam.scale_folding import NECK_DIVISOR, fold_neck_scale
from effsam_export.spec.prompts import Sample
from tests import golden_weights
from tests.golden_weights import MAX_ERROR, RMS_ERROR, Floats, compare

if TYPE_CHECKING:
    from effsam_export.models.sam.module import Sam
    from effsam_export.spec.tensors import Feeds
    from tests.models.conftest import Answers

pytestmark = pytest.mark.backend


class Necked(nn.Module):
    """An encoder that is a neck alone."""

    def __init__(self, neck: nn.Module) -> None:
        super().__init__()
        self.neck = neck

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.neck(x)
        return out


def conv(*, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(4, 4, kernel_size=3, padding=1, bias=bias)


def assert_near(found: Floats, reference: Floats) -> None:
    largest, rms = compare(found, reference)
    assert largest <= MAX_ERROR, (largest, rms)
    assert rms <= RMS_ERROR, (largest, rms)


def decode(sam: Sam, feeds: Feeds) -> tuple[Floats, Floats]:
    module = SAM_DECODER.wrap(sam).eval()
    with torch.inference_mode():
        low_res, iou = module(*(torch.from_numpy(feeds[t.name]) for t in SAM_DECODER.inputs))
    return low_res.numpy(), iou.numpy()


@pytest.mark.parametrize("name", ["a", "b", "c", "d", "e"])
def test_decoder(sam: Sam, decoded: Answers, name: str) -> None:
    given, wanted = decoded[name]
    low_res, iou = decode(sam, SAM_DECODER.feeds(SAM_PREPROCESS, given))
    assert_near(low_res, wanted["low_res_masks"])
    assert_near(iou, wanted["iou_predictions"])


@pytest.mark.parametrize("names", [("a", "c"), ("e", "a")], ids="-".join)
def test_decoder_with_two_prompts(sam: Sam, decoded: Answers, names: tuple[str, str]) -> None:
    feeds = [SAM_DECODER.feeds(SAM_PREPROCESS, decoded[n][0]) for n in names]
    low_res, iou = decode(sam, stack_decoder_feeds(feeds))
    assert low_res.shape == (2, 4, 256, 256)
    for i, name in enumerate(names):
        assert_near(low_res[i : i + 1], decoded[name][1]["low_res_masks"])
        assert_near(iou[i : i + 1], decoded[name][1]["iou_predictions"])


def test_encoder(sam: Sam) -> None:
    pixels = golden_weights.generator(5).integers(0, 256, (683, 1024, 3), dtype=np.uint8)
    given = Sample(image=pixels)
    wanted = ENCODER.reference(sam, given)["image_embeddings"]
    feeds = ENCODER.feeds(SAM_PREPROCESS, given)
    with torch.inference_mode():
        found = ENCODER.wrap(sam)(torch.from_numpy(feeds["image"])).numpy()
    assert_near(found, wanted)


# ------------------------------------------------------------------ the neck fold


def test_folded_neck_gives_the_same_numbers(sam: Sam) -> None:
    neck = sam.image_encoder.neck
    assert isinstance(neck, nn.Sequential)
    folded = fold_neck_scale(Necked(neck))
    x = torch.from_numpy(golden_weights.generator(3).standard_normal((1, 320, 64, 64)) * 40).float()
    with torch.inference_mode():
        assert torch.equal(folded(x), neck(x))


def test_folded_neck_stays_small_before_its_norm(sam: Sam) -> None:
    x = torch.from_numpy(golden_weights.generator(3).standard_normal((1, 320, 64, 64))).float()
    plain, folded = sam.image_encoder.neck, fold_neck_scale(sam.image_encoder).neck
    assert isinstance(plain, nn.Sequential)
    assert isinstance(folded, nn.Sequential)
    with torch.inference_mode():
        assert torch.equal(folded[:-1](x) * NECK_DIVISOR, plain[:-1](x))


def test_scale_folding_does_not_change_the_encoder(sam: Sam) -> None:
    encoder = sam.image_encoder
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    folded = fold_neck_scale(encoder)
    assert folded is not encoder
    assert folded.layers is encoder.layers
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())


@pytest.mark.parametrize(
    "encoder",
    [
        nn.Identity(),
        Necked(nn.Identity()),
        Necked(nn.Sequential(LayerNorm2d(4))),
        Necked(nn.Sequential(conv(bias=True), LayerNorm2d(4))),
        Necked(nn.Sequential(conv(), nn.BatchNorm2d(4))),
        Necked(nn.Sequential(nn.Identity(), LayerNorm2d(4))),
        Necked(nn.Sequential(conv(), LayerNorm2d(4), nn.GELU())),
    ],
    ids=["no neck", "not a sequence", "too short", "bias", "other norm", "no conv", "more behind"],
)
def test_other_encoders_are_not_folded(encoder: nn.Module) -> None:
    assert fold_neck_scale(encoder) is encoder
