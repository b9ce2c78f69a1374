"""EfficientSAM's graphs against the reference they were made from: export forms and ONNX."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from effsam_export.graph import trace
from effsam_export.models import image_sizes
from effsam_export.models.efficient_sam.components import (
    DECODER,
    ENCODER,
    PREPROCESS,
    as_efficient_sam,
)
from effsam_export.models.efficient_sam.encoder import Block, ExportAttention, ExportImageEncoder
from effsam_export.models.efficient_sam.export import ExportDecoder, StagedGroupNorm
from effsam_export.models.efficient_sam.spec import EFFICIENT_SAM_TI, build
from effsam_export.models.sam.scale_folding import NECK_DIVISOR
from effsam_export.spec.prompts import Point, Prompt, Sample
from effsam_export.weights.checkpoint import settle_vector_maths
from tests import golden_weights
from tests.golden_weights import MAX_ERROR, RMS_ERROR, compare

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.backends import Session
    from effsam_export.models.efficient_sam.module import EfficientSam
    from effsam_export.spec.model import ComponentSpec
    from effsam_export.spec.tensors import Feeds
    from tests.golden_weights import Floats

pytestmark = pytest.mark.backend

BOX = (200.0, 150.0, 800.0, 700.0)
PROMPTS_OF_OURS = {
    "point": Prompt(points=(Point(x=512, y=384),)),
    "box": Prompt(box=BOX),
    "point and box": Prompt(points=(Point(x=450, y=400),), box=BOX),
    "box past the edge": Prompt(box=(-20.5, -0.25, 800, 700)),
    "six points": Prompt(points=tuple(Point(x=100 * i, y=90 * i) for i in range(1, 7))),
}


@pytest.fixture(scope="module")
def sam() -> EfficientSam:
    """EfficientSAM-Ti with the deterministic weights."""
    settle_vector_maths()
    golden = golden_weights.load("efficientsam_vitt")
    return as_efficient_sam(golden_weights.load_weights(build("ti"), golden))


@pytest.fixture(scope="module")
def embedding() -> torch.Tensor:
    """In place of a photograph's."""
    return torch.from_numpy(golden_weights.synthetic_embedding())


@pytest.fixture(scope="module")
def picture() -> Sample:
    """Noise, 300x500."""
    pixels = golden_weights.generator(5).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    return Sample(image=pixels)


@pytest.fixture(scope="module")
def embedded(sam: EfficientSam, picture: Sample) -> Floats:
    """The picture's embedding by the authors' path."""
    return ENCODER.reference(sam, picture)["image_embeddings"]


def assert_same(found: Floats, wanted: Floats) -> None:
    """Equal within FP32's noise."""
    largest, rms = compare(found, wanted)
    assert largest <= MAX_ERROR, (largest, rms)
    assert rms <= RMS_ERROR, (largest, rms)


def assert_same_answer(found: Feeds, wanted: Feeds) -> None:
    """The masks as above. Scores on their own scale: three numbers have no deviation to go by."""
    assert_same(found["low_res_masks"], wanted["low_res_masks"])
    off = np.abs(found["iou_predictions"] - wanted["iou_predictions"]).max()
    assert off <= RMS_ERROR, off


def sample_of(embedding: torch.Tensor, prompt: Prompt) -> Sample:
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    return Sample(image=image, embeddings=embedding.numpy(), prompt=prompt)


def run(wrapped: nn.Module, component: ComponentSpec, feeds: Feeds) -> dict[str, Floats]:
    """A wrapped component, eager."""
    with torch.inference_mode():
        out = wrapped.eval()(*(torch.from_numpy(feeds[t.name]) for t in component.inputs))
    values = (out,) if isinstance(out, torch.Tensor) else out
    return {t.name: v.numpy() for t, v in zip(component.outputs, values, strict=True)}


# ------------------------------------------------------------------ the export form


def test_feeds_are_points_then_corners_then_empty_slots() -> None:
    prompt = Prompt(points=(Point(x=3, y=4),), box=(1, 2, 5, 6))
    feeds = DECODER.feeds(PREPROCESS, sample_of(torch.zeros(1), prompt))
    assert feeds["point_labels"].tolist() == [[1, 2, 3, -1, -1, -1]]
    assert feeds["point_coords"].tolist() == [[[3, 4], [1, 2], [5, 6], *[[-1, -1]] * 3]]
    assert all(value.dtype == np.float32 for value in feeds.values())


@pytest.mark.parametrize("name", PROMPTS_OF_OURS)
def test_export_form_of_the_decoder(sam: EfficientSam, embedding: torch.Tensor, name: str) -> None:
    given = sample_of(embedding, PROMPTS_OF_OURS[name])
    wanted = DECODER.reference(sam, given)
    found = run(DECODER.wrap(sam), DECODER, DECODER.feeds(PREPROCESS, given))
    assert_same_answer(found, wanted)


def test_export_form_of_the_encoder(sam: EfficientSam, picture: Sample, embedded: Floats) -> None:
    found = run(ENCODER.wrap(sam), ENCODER, ENCODER.feeds(PREPROCESS, picture))
    assert_same(found["image_embeddings"], embedded)


def test_export_form_at_another_size(picture: Sample) -> None:
    model = image_sizes.resized(EFFICIENT_SAM_TI, 256)
    module = golden_weights.load_weights(model.build(), golden_weights.load("efficientsam_vitt"))
    encoder, decoder = model.component("encoder"), model.component("decoder")
    embedded = encoder.reference(module, picture)
    assert embedded["image_embeddings"].shape == (1, 256, 16, 16)
    found = run(encoder.wrap(module), encoder, encoder.feeds(model.preprocess, picture))
    assert_same(found["image_embeddings"], embedded["image_embeddings"])
    given = replace(
        picture,
        embeddings=embedded["image_embeddings"],
        prompt=Prompt(points=(Point(x=200, y=31),), box=(10, 20, 250, 130)),
    )
    wanted = decoder.reference(module, given)
    assert wanted["low_res_masks"].shape == (1, 3, 64, 64)
    answer = run(decoder.wrap(module), decoder, decoder.feeds(model.preprocess, given))
    assert_same_answer(answer, wanted)


def test_export_form_shares_the_weights_and_does_not_change_the_encoder(sam: EfficientSam) -> None:
    encoder = sam.image_encoder
    names = list(encoder.state_dict())
    form = ExportImageEncoder(encoder)
    assert list(encoder.state_dict()) == names
    own, baked = encoder.blocks[0], form.blocks[0]
    assert isinstance(own, Block)
    assert isinstance(baked, Block)
    assert isinstance(baked.attn, ExportAttention)
    assert not isinstance(own.attn, ExportAttention)
    assert baked.mlp is own.mlp
    assert baked.attn.qkv is own.attn.qkv


def test_neck_of_the_wrapped_encoder_is_folded(sam: EfficientSam) -> None:
    name = "image_encoder.neck.2.weight"
    folded = ENCODER.wrap(sam).state_dict()[name]
    assert torch.equal(folded * NECK_DIVISOR, sam.state_dict()[name])


def test_staged_group_norm_is_group_norm() -> None:
    norm = nn.GroupNorm(1, 64)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.from_numpy(golden_weights.generator(3).standard_normal((2, 64, 16, 32))).float()
    with torch.inference_mode():
        tokens = StagedGroupNorm(norm, 32)((3 * x + 1).flatten(2).transpose(1, 2))
        assert_same(tokens.transpose(1, 2).reshape(x.shape).numpy(), norm(3 * x + 1).numpy())


def test_staged_group_norm_refuses_several_groups() -> None:
    with pytest.raises(AssertionError):
        StagedGroupNorm(nn.GroupNorm(2, 64), 32)


def test_points_with_negative_coordinates_are_ignored(sam: EfficientSam) -> None:
    decoder = DECODER.wrap(sam)
    assert isinstance(decoder, ExportDecoder)
    labels = torch.tensor([[2.0]])
    with torch.inference_mode():
        far = decoder.embed_points(torch.tensor([[[-70.0, 5.0]]]), labels)
        near = decoder.embed_points(torch.tensor([[[-1.0, 5.0]]]), labels)
    assert torch.equal(far, near)


# ------------------------------------------------------------------ ONNX Runtime


def session(sam: EfficientSam, component: ComponentSpec, folder: Path) -> Session:
    """A traced component in ONNX Runtime."""
    runtime = import_module("effsam_export.backends.onnx.backend")
    program = trace.trace(sam, component)
    graph = trace.to_onnx(program, component, 20, folder)
    opened: Session = runtime.OnnxSession(graph.path, "CPUExecutionProvider")
    return opened


def test_onnx_decoder(sam: EfficientSam, embedding: torch.Tensor, tmp_path: Path) -> None:
    given = [sample_of(embedding, prompt) for prompt in PROMPTS_OF_OURS.values()]
    feeds = [DECODER.feeds(PREPROCESS, s) for s in given]
    stacked = {
        "image_embeddings": embedding.numpy(),
        **{k: np.concatenate([f[k] for f in feeds]) for k in ("point_coords", "point_labels")},
    }
    opened = session(sam, DECODER, tmp_path)
    together, alone = opened.run(stacked), opened.run(feeds[0])
    wanted = [DECODER.reference(sam, sample) for sample in given]
    assert_same_answer(alone, wanted[0])
    for i, answer in enumerate(wanted):
        assert_same_answer({k: v[i : i + 1] for k, v in together.items()}, answer)


def test_onnx_encoder(sam: EfficientSam, picture: Sample, embedded: Floats, tmp_path: Path) -> None:
    found = session(sam, ENCODER, tmp_path).run(ENCODER.feeds(PREPROCESS, picture))
    assert_same(found["image_embeddings"], embedded)
