"""EfficientViT-SAM's own parts: linear attention, neck, two frames, export form and graphs.

`test_relatives.py` holds every size against the authors' figures; here is what is peculiar to the
family, on the smallest size with the deterministic weights.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from effsam_export import models
from effsam_export.errors import CheckpointError
from effsam_export.graph import trace
from effsam_export.imaging.images import frame_of, prompt_to_model
from effsam_export.models.efficientvit import (
    ATTENTION_EPS,
    GRID,
    HEAD_DIM,
    ConvLayer,
    EfficientViTEncoder,
    LiteMLA,
    UpSample,
    block,
    first_block,
    large,
)
from effsam_export.models.efficientvit_export import LAST_CONV, export_form
from effsam_export.models.efficientvit_sam import (
    DISTILLED_ONLY,
    LARGE_ENCODER,
    LARGE_PREPROCESS,
    NORM_EPS,
    build,
)
from effsam_export.models.sam.components import SAM_DECODER, SAM_PREPROCESS, as_sam
from effsam_export.models.sam.layers import LayerNorm2d
from effsam_export.models.sam.scale_folding import NECK_DIVISOR
from effsam_export.spec.model import UrlSource
from effsam_export.spec.prompts import Point, Prompt, Sample
from effsam_export.spec.stages import Checkpoint
from effsam_export.weights.checkpoint import load, settle_vector_maths
from tests import golden_weights
from tests.golden_weights import MAX_ERROR, RMS_ERROR, compare, generator
from tests.sampled import MAX_DIFFERENCE, assert_near, assert_score, prompt_of

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.models.sam.module import Sam
    from effsam_export.spec.tensors import Feeds
    from tests.golden_weights import Floats

pytestmark = pytest.mark.backend

SIZES = ("l0", "l1", "l2", "xl0", "xl1")
GOLDEN = golden_weights.load("efficientvit_sam_l0")
CASES: dict[str, Any] = GOLDEN.manifest["prompts"]["noise"]
MODES = {"multi": slice(1, None), "single": slice(0, 1)}
every_size = pytest.mark.parametrize("size", SIZES)


def noise(*shape: int, seed: int = 7) -> torch.Tensor:
    return torch.from_numpy(generator(seed).standard_normal(shape).astype(np.float32))


def assert_same(found: Floats, wanted: Floats) -> None:
    """Equal within FP32 noise."""
    largest, rms = compare(found, wanted)
    assert largest <= MAX_ERROR, (largest, rms)
    assert rms <= RMS_ERROR, (largest, rms)


@pytest.fixture(scope="module")
def sam() -> Sam:
    """The smallest size with the deterministic weights, loaded strictly."""
    settle_vector_maths()
    return as_sam(golden_weights.load_weights(build("l0"), GOLDEN))


@pytest.fixture(scope="module")
def embedding(sam: Sam) -> Floats:
    """The embedding of noise of 512 pixels."""
    with torch.inference_mode():
        out = sam.image_encoder(noise(1, 3, 512, 512))
    return np.asarray(out.numpy())


@pytest.fixture(scope="module")
def seen(sam: Sam) -> tuple[Sample, Feeds]:
    """A picture of random pixels, wider than high, and its embedding by the reference."""
    pixels = generator(5).integers(0, 256, (683, 1024, 3), dtype=np.uint8)
    given = Sample(image=pixels)
    return given, LARGE_ENCODER.reference(sam, given)


# ------------------------------------------------------------------ what is stated


@every_size
def test_encoder_takes_what_the_preprocessing_makes(size: str) -> None:
    spec = models.get(f"efficientvit-sam-{size}")
    side = 512 if size.startswith("l") else 1024
    assert spec.preprocess == replace(SAM_PREPROCESS, image_size=side)
    assert spec.preprocess.prompt_size == 1024
    encoder = spec.component("encoder")
    assert encoder.inputs[0].shape == (1, 3, side, side)
    assert str(side) in encoder.inputs[0].description
    assert tuple(encoder.example()["image"].shape) == (1, 3, side, side)


@every_size
def test_weights_are_the_authors_file_of_that_size(size: str) -> None:
    weights = models.get(f"efficientvit-sam-{size}").weights
    assert weights is not None
    (source,) = weights.sources
    assert isinstance(source, UrlSource)
    # The distilled-only files have the same names, one folder further down.
    folder = "https://huggingface.co/mit-han-lab/efficientvit-sam/resolve/main/"
    assert source.url == f"{folder}efficientvit_sam_{size}.pt"
    assert weights.sha256 is not None
    assert weights.sha256 not in DISTILLED_ONLY


def test_every_size_has_its_own_weights() -> None:
    found = {models.get(f"efficientvit-sam-{size}").weights for size in SIZES}
    assert len({w.sha256 for w in found if w is not None}) == len(SIZES)


@pytest.mark.parametrize("sha256", DISTILLED_ONLY)
def test_distilled_only_weights_are_refused(sha256: str, tmp_path: Path) -> None:
    spec = models.get("efficientvit-sam-l0")
    file = tmp_path / "efficientvit_sam_l0.pt"
    with pytest.raises(CheckpointError) as caught:
        load(spec, Checkpoint(path=file, sha256=sha256, official=False))
    assert caught.value.message.startswith(
        "`efficientvit_sam_l0.pt` is refused: it holds an EfficientViT-SAM that was distilled"
    )
    assert caught.value.hint == "`effsam fetch efficientvit-sam-l0` downloads the right file"


@every_size
def test_every_norm_has_the_authors_epsilon(size: str) -> None:
    with torch.device("meta"):
        module = build(size)
    norms = [
        m for m in module.modules() if isinstance(m, (nn.BatchNorm2d, nn.LayerNorm, LayerNorm2d))
    ]
    assert {type(m) for m in norms} == {nn.BatchNorm2d, nn.LayerNorm, LayerNorm2d}
    assert {m.eps for m in norms} == {NORM_EPS} == {1e-6}


@every_size
def test_every_gelu_of_the_encoder_is_by_tanh(size: str) -> None:
    with torch.device("meta"):
        module = as_sam(build(size))
    found = [m.approximate for m in module.image_encoder.modules() if isinstance(m, nn.GELU)]
    assert set(found) == {"tanh"}
    decoder = [m.approximate for m in module.mask_decoder.modules() if isinstance(m, nn.GELU)]
    assert set(decoder) == {"none"}


# ------------------------------------------------------------------ two frames


def test_prompts_are_in_1024_pixels_where_the_image_is_in_512() -> None:
    frame = frame_of((1200, 1800), LARGE_PREPROCESS)
    assert frame.resized == (341, 512)
    assert frame.prompt == (683, 1024)
    moved = prompt_to_model(Prompt(points=(Point(x=1800, y=1200),)), frame)
    assert moved.points == (Point(x=1024, y=683),)


def test_padding_is_zero_after_the_normalisation(sam: Sam) -> None:
    given = Sample(image=np.full((40, 80, 3), 200, dtype=np.uint8))
    image = torch.from_numpy(LARGE_ENCODER.feeds(LARGE_PREPROCESS, given)["image"])
    assert image.shape == (1, 3, 512, 512)
    normalised = (image - sam.pixel_mean) / sam.pixel_std
    assert normalised[:, :, 256:].abs().max() == 0
    assert normalised[:, :, :256].abs().min() > 0
    # The reference normalises first, then pads.
    assert torch.equal(sam.preprocess(image[:, :, :256]), normalised)


@pytest.mark.parametrize("name", CASES)
def test_decoder(sam: Sam, embedding: Floats, name: str) -> None:
    square = np.zeros((1024, 1024, 3), dtype=np.uint8)
    given = Sample(image=square, embeddings=embedding, prompt=prompt_of(CASES[name]))
    answer = SAM_DECODER.reference(sam, given)
    kept = [mode for mode in MODES if f"noise.{name}.{mode}.logits" in GOLDEN.figures]
    assert "multi" in kept
    for mode in kept:
        key = f"noise.{name}.{mode}"
        assert_near(GOLDEN, f"{key}.logits", answer["low_res_masks"][0, MODES[mode]])
        scores = answer["iou_predictions"][:, MODES[mode]]
        assert_score(scores, GOLDEN, f"{key}.iou", MAX_DIFFERENCE)


def test_a_point_in_512_pixels_is_another_answer(sam: Sam, embedding: Floats) -> None:
    square = np.zeros((1024, 1024, 3), dtype=np.uint8)
    prompts = [Prompt(points=(Point(x=x, y=y),)) for x, y in ((512, 384), (256, 192))]
    right, wrong = (
        SAM_DECODER.reference(sam, Sample(image=square, embeddings=embedding, prompt=p))
        for p in prompts
    )
    assert np.abs(right["low_res_masks"] - wrong["low_res_masks"]).max() > 0.1


# ------------------------------------------------------------------ the layers


def attention(dim: int = 2 * HEAD_DIM) -> LiteMLA:
    torch.manual_seed(0)
    return LiteMLA(dim, 5).eval()


def test_linear_attention_is_attention_with_the_weights_of_a_relu_kernel() -> None:
    attn = attention()
    x = noise(1, 2 * HEAD_DIM, 6, 7)
    with torch.inference_mode():
        qkv = attn.qkv(x)
        both = torch.cat([qkv, attn.aggreg[0](qkv)], dim=1).reshape(4, 3, HEAD_DIM, 42)
        q, k, v = (both[:, i].transpose(1, 2) for i in range(3))  # heads x positions x dim
        weights = torch.relu(q) @ torch.relu(k).transpose(1, 2)
        weights = weights / (weights.sum(-1, keepdim=True) + ATTENTION_EPS)
        wanted = attn.proj((weights @ v).transpose(1, 2).reshape(1, 4 * HEAD_DIM, 6, 7))
        found = attn(x)
    assert_same(found.numpy(), wanted.numpy())


def test_a_position_that_asks_for_nothing_gets_nothing() -> None:
    attn = attention()
    with torch.inference_mode():
        # As where the kernel cuts off every query: without the epsilon it would be 0 / 0.
        attn.qkv.conv.weight.zero_()
        found = attn(noise(1, 2 * HEAD_DIM, 4, 4))
        wanted = attn.proj(torch.zeros(1, 4 * HEAD_DIM, 4, 4))
    assert torch.equal(found, wanted)


def test_conv_layer_without_norm_and_activation_is_its_convolution() -> None:
    layer = ConvLayer(4, 8, norm=False, bias=True)
    x = noise(1, 4, 5, 5)
    assert list(layer.state_dict()) == ["conv.weight", "conv.bias"]
    assert torch.equal(layer(x), layer.conv(x))


def test_blocks_keep_the_shape_and_first_blocks_halve_it() -> None:
    stages = large((1, 1, 1, 1, 1), 1).stages
    for previous, stage in pairwise(stages):
        x = noise(1, previous.width, 8, 8)
        with torch.inference_mode():
            half = first_block(previous.width, stage).eval()(x)
            assert half.shape == (1, stage.width, 4, 4)
            assert block(stage).eval()(half).shape == half.shape


def test_up_sampling_does_not_change_a_map_of_the_right_size() -> None:
    x = noise(1, 2, GRID, GRID)
    assert UpSample()(x) is x


@pytest.mark.parametrize("side", [16, 32])
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_up_sampling_in_runtimes(runtime: str, side: int, tmp_path: Path) -> None:
    backend = import_module(f"effsam_export.backends.{runtime}.backend")
    inputs = (replace(LARGE_ENCODER.inputs[0], name="x", shape=(1, 8, side, side)),)
    outputs = (replace(LARGE_ENCODER.outputs[0], name="y", shape=(1, 8, GRID, GRID)),)
    component = replace(
        LARGE_ENCODER,
        inputs=inputs,
        outputs=outputs,
        wrap=lambda module: module,
        example=lambda: {"x": torch.zeros(1, 8, side, side)},
    )
    graph = trace.to_onnx(trace.trace(UpSample(), component), component, 20, tmp_path)
    x = noise(1, 8, side, side)
    if runtime == "onnx":
        session = backend.OnnxSession(graph.path, "CPUExecutionProvider")
    else:
        session = backend.OpenvinoSession(graph.path, "CPU", "f32")
    (found,) = session.run({"x": x.numpy()}).values()
    assert_same(found, UpSample()(x).numpy())


# ------------------------------------------------------------------ export


@pytest.fixture(scope="module")
def encoder(sam: Sam) -> EfficientViTEncoder:
    assert isinstance(sam.image_encoder, EfficientViTEncoder)
    return sam.image_encoder


def test_export_form_has_no_batch_norm_and_does_not_change_the_encoder(
    encoder: EfficientViTEncoder,
) -> None:
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    form = export_form(encoder)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in form.modules())
    assert list(encoder.state_dict()) == list(before)
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    assert encoder.norm.eps == NORM_EPS


def test_last_norm_is_given_a_64th(encoder: EfficientViTEncoder) -> None:
    form = export_form(encoder)
    x = noise(1, 256, 8, 8)
    with torch.inference_mode():
        plain = encoder.get_submodule(LAST_CONV)(x)
        scaled = form.get_submodule(LAST_CONV)(x)
        assert torch.equal(scaled * NECK_DIVISOR, plain)
        assert torch.equal(form.get_submodule("norm")(scaled), encoder.norm(plain))


def test_export_form_of_the_encoder(sam: Sam, seen: tuple[Sample, Feeds]) -> None:
    given, wanted = seen
    feeds = LARGE_ENCODER.feeds(LARGE_PREPROCESS, given)
    with torch.inference_mode():
        found = LARGE_ENCODER.wrap(sam).eval()(torch.from_numpy(feeds["image"])).numpy()
    assert_same(found, wanted["image_embeddings"])


@pytest.mark.parametrize("name", ["b", "d", "e"])
def test_export_form_of_the_decoder(sam: Sam, embedding: Floats, name: str) -> None:
    square = np.zeros((1024, 1024, 3), dtype=np.uint8)
    given = Sample(image=square, embeddings=embedding, prompt=prompt_of(CASES[name]))
    feeds = SAM_DECODER.feeds(LARGE_PREPROCESS, given)
    wanted = SAM_DECODER.reference(sam, given)
    with torch.inference_mode():
        low_res, iou = SAM_DECODER.wrap(sam).eval()(
            *(torch.from_numpy(feeds[t.name]) for t in SAM_DECODER.inputs)
        )
    assert_same(low_res.numpy(), wanted["low_res_masks"])
    assert_same(iou.numpy(), wanted["iou_predictions"])


@pytest.fixture(scope="module")
def graph(sam: Sam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder as ONNX."""
    folder = tmp_path_factory.mktemp("efficientvit")
    return trace.to_onnx(trace.trace(sam, LARGE_ENCODER), LARGE_ENCODER, 20, folder).path


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_graph_of_the_encoder(graph: Path, seen: tuple[Sample, Feeds], runtime: str) -> None:
    backend = import_module(f"effsam_export.backends.{runtime}.backend")
    if runtime == "onnx":
        session = backend.OnnxSession(graph, "CPUExecutionProvider")
    else:
        session = backend.OpenvinoSession(graph, "CPU", "f32")
    given, wanted = seen
    found = session.run(LARGE_ENCODER.feeds(LARGE_PREPROCESS, given))["image_embeddings"]
    assert_same(found, wanted["image_embeddings"])
