"""SAM-Lightening's definition against its public code, on weights made from names.

In float32, which is what is exported, and in bfloat16, which is what the authors wrote. bfloat16
has 8 bits: another processor or another order of summation rounds otherwise, and the figures
themselves are rms 4e-3 from those in float32. It is held to that one unit in the last place.
"""

from __future__ import annotations

import hashlib
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from effsam_export.graph import trace
from effsam_export.imaging.decode import load_image
from effsam_export.imaging.images import frame_of, prompt_to_model, upscale_masks
from effsam_export.models import get
from effsam_export.models.lightening import DilatedAttention, LighteningEncoder
from effsam_export.models.sam.components import (
    SAM_DECODER,
    SAM_ENCODER,
    SAM_MASKS,
    SAM_PREPROCESS,
    as_sam,
)
from effsam_export.models.sam.module import Sam
from effsam_export.spec.prompts import Sample
from effsam_export.weights.checkpoint import settle_vector_maths
from tests import golden_weights
from tests.golden_weights import MAX_ERROR, RMS_ERROR, compare
from tests.sampled import MAX_DIFFERENCE, assert_near, assert_score, differences, prompt_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from effsam_export.spec.tensors import Feeds
    from tests.golden_weights import Floats, Golden

pytestmark = pytest.mark.backend

GOLDEN = golden_weights.load("sam_lightening_vit_t")
CASES: dict[str, Any] = GOLDEN.manifest["prompts"]["noise"]
MODES = {"multi": slice(1, None), "single": slice(0, 1)}
BF16_RMS = 2.0**-8
BF16_MAX = 8 * BF16_RMS


# ------------------------------------------------------------------ what is compared


@pytest.fixture(scope="module")
def sam() -> Sam:
    """The model of the table, in float32, with the deterministic weights, loaded strictly."""
    settle_vector_maths()
    return as_sam(golden_weights.load_weights(get("sam-lightening").build(), GOLDEN))


@pytest.fixture(scope="module")
def embedding(sam: Sam) -> Floats:
    """The embedding of noise."""
    return encode_noise(sam)


def encode_noise(sam: Sam) -> Floats:
    with torch.inference_mode():
        out = sam.image_encoder(torch.from_numpy(golden_weights.noise_image()))
    return np.asarray(out.numpy(), dtype=np.float32)


def ask(sam: Sam, embedding: Floats, case: dict[str, Any], image: NDArray[np.uint8]) -> Feeds:
    """All four masks and scores for a prompt of a manifest, in pixels of `image`."""
    frame = frame_of((image.shape[0], image.shape[1]), SAM_PREPROCESS)
    prompt = prompt_to_model(prompt_of(case), frame)
    return SAM_DECODER.reference(sam, Sample(image=image, embeddings=embedding, prompt=prompt))


def assert_answer(golden: Golden, key: str, answer: Feeds, tolerance: float) -> None:
    """Masks and scores of both modes, where they are kept, against the figures at `key`."""
    kept = [mode for mode in MODES if f"{key}.{mode}.logits" in golden.figures]
    assert "multi" in kept
    for mode in kept:
        low_res = answer["low_res_masks"][0, MODES[mode]]
        assert_near(golden, f"{key}.{mode}.logits", low_res, tolerance)
        scores = answer["iou_predictions"][:, MODES[mode]]
        assert_score(scores, golden, f"{key}.{mode}.iou", tolerance)


def square() -> NDArray[np.uint8]:
    """A picture whose pixels are those of the model frame."""
    return np.zeros((1024, 1024, 3), dtype=np.uint8)


def entries(sam: torch.nn.Module) -> list[list[Any]]:
    return [
        [name, list(value.shape), str(value.dtype).removeprefix("torch.")]
        for name, value in sam.state_dict().items()
    ]


# ------------------------------------------------------------------ names and what is stated


def test_state_dict_has_the_names_shapes_and_order_of_the_authors(sam: Sam) -> None:
    assert entries(sam) == GOLDEN.manifest["entries"]


def test_number_of_parameters(sam: Sam) -> None:
    assert sum(p.numel() for p in sam.parameters()) == GOLDEN.manifest["n_params"]


def test_there_are_no_weights_and_no_licence() -> None:
    spec = get("sam-lightening")
    assert spec.weights is None
    assert spec.state.startswith("blocked: ")
    assert spec.licence.spdx == "NOASSERTION"
    assert spec.licence.restricted


# ------------------------------------------------------------------ the reference


def test_embedding_of_noise(embedding: Floats) -> None:
    assert_near(GOLDEN, "noise.embedding", embedding)


@pytest.mark.parametrize("name", CASES)
def test_decoder(sam: Sam, embedding: Floats, name: str) -> None:
    answer = ask(sam, embedding, CASES[name], square())
    assert_answer(GOLDEN, f"noise.{name}", answer, MAX_DIFFERENCE)


def attention() -> DilatedAttention:
    """One attention with random weights."""
    torch.manual_seed(0)
    return DilatedAttention(torch.float32).eval()


def maps(count: int) -> torch.Tensor:
    x = golden_weights.generator(1).standard_normal((count, 4, 6, 384)).astype(np.float32)
    return torch.from_numpy(x)


def test_odd_columns_get_only_the_bias_of_the_projection() -> None:
    attn = attention()
    with torch.inference_mode():
        out = attn(maps(3))
        assert torch.equal(out[:, :, 1::2], attn.proj.bias.expand(3, 4, 3, 384))
        assert not torch.equal(out[:, :, ::2], attn.proj.bias.expand(3, 4, 3, 384))


def test_attention_is_across_maps_at_equal_position() -> None:
    attn, x = attention(), maps(3)
    with torch.inference_mode():
        before = attn(x)
        x[1, 2, 4] += 1
        moved = (attn(x) - before).abs().amax(-1) > 1e-6
    assert moved[:, 2, 4].all()
    assert moved.sum() == 3


def test_attention_of_one_map_passes_values_on() -> None:
    attn, x = attention(), maps(1)
    mha = attn.multihead_attn
    with torch.inference_mode():
        values = mha.Wqkv(x[:, :, ::2]).chunk(3, dim=-1)[2]
        wanted = attn.proj(mha.out_proj(values))
        assert torch.allclose(attn(x)[:, :, ::2], wanted, atol=1e-6)


# ------------------------------------------------------------------ export


@pytest.fixture(scope="module")
def picture() -> Sample:
    """Noise, 512x1024."""
    pixels = golden_weights.generator(6).integers(0, 256, (512, 1024, 3), dtype=np.uint8)
    return Sample(image=pixels)


@pytest.fixture(scope="module")
def embedded(sam: Sam, picture: Sample) -> Floats:
    """The picture's embedding by the authors' path."""
    out: Floats = SAM_ENCODER.reference(sam, picture)["image_embeddings"]
    return out


def test_export_form_of_the_encoder(sam: Sam, picture: Sample, embedded: Floats) -> None:
    feeds = SAM_ENCODER.feeds(SAM_PREPROCESS, picture)
    with torch.inference_mode():
        found = SAM_ENCODER.wrap(sam).eval()(torch.from_numpy(feeds["image"])).numpy()
    largest, rms = compare(found, embedded)
    assert largest <= MAX_ERROR
    assert rms <= RMS_ERROR


def test_onnx_encoder(sam: Sam, picture: Sample, embedded: Floats, tmp_path: Path) -> None:
    runtime = import_module("effsam_export.backends.onnx.backend")
    graph = trace.to_onnx(trace.trace(sam, SAM_ENCODER), SAM_ENCODER, 20, tmp_path)
    session = runtime.OnnxSession(graph.path, "CPUExecutionProvider")
    found = session.run(SAM_ENCODER.feeds(SAM_PREPROCESS, picture))["image_embeddings"]
    largest, rms = compare(found, embedded)
    assert largest <= MAX_ERROR
    assert rms <= RMS_ERROR


# ------------------------------------------------------------------ the photograph, where it is


@pytest.fixture(scope="module")
def truck(shared: Path) -> NDArray[np.uint8]:
    return load_image(shared / "images" / "truck.jpg")


@pytest.fixture(scope="module")
def full(shared: Path) -> Golden:
    return golden_weights.load("sam_lightening_vit_t", shared / "golden")


@pytest.fixture(scope="module")
def seen(sam: Sam, truck: NDArray[np.uint8]) -> Floats:
    """The embedding of the photograph."""
    out: Floats = SAM_ENCODER.reference(sam, Sample(image=truck))["image_embeddings"]
    return out


@pytest.mark.shared
def test_embedding_of_the_photo(full: Golden, truck: NDArray[np.uint8], seen: Floats) -> None:
    found = hashlib.sha256(truck.tobytes()).hexdigest()
    assert found == full.manifest["photo"]["rgb_sha256"]
    assert_near(full, "photo.embedding", seen)


@pytest.mark.shared
@pytest.mark.parametrize("name", CASES)
def test_decoder_on_the_photo(
    sam: Sam, full: Golden, truck: NDArray[np.uint8], seen: Floats, name: str
) -> None:
    answer = ask(sam, seen, full.manifest["prompts"]["photo"][name], truck)
    assert_answer(full, f"photo.{name}", answer, MAX_DIFFERENCE)


@pytest.mark.shared
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["a", "c"])
def test_masks_at_the_size_of_the_photo(
    sam: Sam, full: Golden, truck: NDArray[np.uint8], seen: Floats, name: str, mode: str
) -> None:
    answer = ask(sam, seen, full.manifest["prompts"]["photo"][name], truck)
    frame = frame_of((truck.shape[0], truck.shape[1]), SAM_PREPROCESS)
    logits = upscale_masks(answer["low_res_masks"][0, MODES[mode]], frame, SAM_MASKS)
    figures, key = full.figures, f"photo.{name}.{mode}"
    near_zero = np.abs(logits) <= MAX_DIFFERENCE
    areas = (logits > 0).sum((1, 2))
    assert (np.abs(areas - figures[f"{key}.area"]) <= near_zero.sum((1, 2))).all()
    best = int(figures[f"{key}.best"])
    assert best == answer["iou_predictions"][0, MODES[mode]].argmax()
    bits = np.unpackbits(figures[f"{key}.bits"], count=logits[0].size).reshape(logits[0].shape)
    flipped = (logits[best] > 0) != bits.astype(bool)
    assert not (flipped & ~near_zero[best]).any()


# ------------------------------------------------------------------ bfloat16, as written


@pytest.fixture(scope="module")
def written(shared: Path) -> Golden:
    return golden_weights.load("sam_lightening_vit_t_bf16", shared / "golden")


@pytest.fixture(scope="module")
def rounded(written: Golden) -> Sam:
    """The model with attention in bfloat16."""
    plain = Sam(LighteningEncoder(torch.bfloat16), SAM_PREPROCESS)
    return as_sam(golden_weights.load_weights(plain, written))


@pytest.mark.shared
def test_dtypes_of_the_authors(rounded: Sam, written: Golden) -> None:
    assert entries(rounded) == written.manifest["entries"]


@pytest.mark.shared
def test_embedding_of_noise_in_bfloat16(rounded: Sam, written: Golden) -> None:
    off = differences(written, "noise.embedding", encode_noise(rounded))
    assert off.max() <= BF16_MAX
    assert np.sqrt((off**2).mean()) <= BF16_RMS


@pytest.fixture(scope="module")
def roughly_seen(rounded: Sam, truck: NDArray[np.uint8]) -> Floats:
    """The embedding of the photograph by attention in bfloat16."""
    out: Floats = SAM_ENCODER.reference(rounded, Sample(image=truck))["image_embeddings"]
    return out


@pytest.mark.shared
@pytest.mark.parametrize("name", CASES)
def test_decoder_on_the_image_in_bfloat16(
    rounded: Sam, written: Golden, truck: NDArray[np.uint8], roughly_seen: Floats, name: str
) -> None:
    answer = ask(rounded, roughly_seen, written.manifest["prompts"]["photo"][name], truck)
    assert_answer(written, f"photo.{name}", answer, BF16_MAX)
