"""MobileSAM's definition against the authors' own code, on weights that need no checkpoint.

Stages are compared by mean, standard deviation and largest magnitude. If a stage is within
RMS_ERROR of the authors', so are its mean and deviation, and its largest magnitude is within
MAX_ERROR. Measured are 4e-8 and 3e-6, so mean and deviation are held to the tighter STATS_ERROR.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from effsam_export.imaging.decode import load_image
from effsam_export.imaging.images import (
    Frame,
    frame_of,
    prompt_to_model,
    resize,
    upscale_masks,
)
from effsam_export.models.mobile_sam import build
from effsam_export.models.sam.components import SAM_ENCODER, SAM_MASKS, SAM_PREPROCESS
from effsam_export.spec.prompts import Sample
from tests import golden_weights
from tests.golden_weights import MAX_ERROR, RMS_ERROR, Floats, Golden, compare, sample, stats
from tests.models.conftest import Answers, decode_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from effsam_export.models.sam.module import Sam
    from effsam_export.spec.tensors import Feeds

pytestmark = pytest.mark.backend

STATS_ERROR = 1e-6
GOLDEN = golden_weights.load("vit_t")
PROMPTS = tuple(GOLDEN.manifest["prompts"])
MODES = {"m1": [0], "m3": [1, 2, 3]}
STAGES = [k.removeprefix("stage/noise/") for k in GOLDEN.figures if k.startswith("stage/noise/")]

Stats = dict[str, "NDArray[np.float64]"]


# ------------------------------------------------------------------ how things are compared


def assert_near(found: ArrayLike, reference: ArrayLike) -> None:
    """Both tolerances, with the figures in the message."""
    largest, rms = compare(found, reference)
    assert largest <= MAX_ERROR, (largest, rms)
    assert rms <= RMS_ERROR, (largest, rms)


def assert_stats_near(found: NDArray[np.float64], reference: NDArray[np.float64]) -> None:
    errors = np.abs(found - reference) / reference[1]
    assert (errors <= [STATS_ERROR, STATS_ERROR, MAX_ERROR]).all(), errors


def assert_decoded(golden: Golden, key: str, mode: str, answer: Feeds) -> None:
    """Low-resolution masks and scores of one mode against the figures at `key`."""
    figures = {k: golden.figures[f"{key}/{mode}/{k}"] for k in ("iou", "low_res/sample")}
    low_res = answer["low_res_masks"][0, MODES[mode]]
    assert_near(sample(low_res), figures["low_res/sample"])
    assert_near(answer["iou_predictions"][0, MODES[mode]], figures["iou"])
    mean, std = (golden.figures[f"{key}/{mode}/low_res/{k}"] for k in ("mean", "std"))
    pixels = low_res.reshape(len(low_res), -1).astype(np.float64)
    assert (np.abs(pixels.mean(1) - mean) <= RMS_ERROR * std).all()
    assert (np.abs(pixels.std(1) - std) <= RMS_ERROR * std).all()


@contextmanager
def watched(sam: Sam) -> Iterator[Stats]:
    """Stats of every stage of the image encoder that runs meanwhile."""
    found: Stats = {}

    def note(name: str, output: torch.Tensor) -> None:
        found[name] = stats(output.numpy())

    modules = dict(sam.image_encoder.named_modules())
    handles = [
        modules[name].register_forward_hook(lambda _m, _args, out, name=name: note(name, out))
        for name in STAGES
    ]
    yield found
    for handle in handles:
        handle.remove()


# ------------------------------------------------------------------ names and constants


def test_state_dict_has_the_names_shapes_and_order_of_the_authors() -> None:
    found = [
        [name, list(value.shape), str(value.dtype).removeprefix("torch.")]
        for name, value in build().state_dict().items()
    ]
    assert found == [entry[:3] for entry in GOLDEN.manifest["entries"]]


def test_number_of_parameters() -> None:
    assert sum(p.numel() for p in build().parameters()) == GOLDEN.manifest["n_params"]


def test_normalisation(sam: Sam) -> None:
    assert sam.pixel_mean.flatten().tolist() == GOLDEN.manifest["pixel_mean"]
    assert sam.pixel_std.flatten().tolist() == GOLDEN.manifest["pixel_std"]


# ------------------------------------------------------------------ noise and a synthetic embedding


@pytest.fixture(scope="module")
def noise(sam: Sam) -> tuple[Floats, Stats]:
    """The embedding of noise, sampled, and the stats of the stages before it."""
    with watched(sam) as found, torch.inference_mode():
        embedding = sam.image_encoder(torch.from_numpy(golden_weights.noise_image()))
    return sample(embedding.numpy()), found


def test_embedding_of_noise(noise: tuple[Floats, Stats]) -> None:
    assert_near(noise[0], GOLDEN.figures["enc/noise/sample"])


@pytest.mark.parametrize("stage", STAGES)
def test_stage_on_noise(noise: tuple[Floats, Stats], stage: str) -> None:
    assert_stats_near(noise[1][stage], GOLDEN.figures[f"stage/noise/{stage}"])


def test_dense_positional_encoding(sam: Sam) -> None:
    found = sam.prompt_encoder.dense_pe().numpy()
    assert found.shape == (1, 256, 64, 64)
    assert_near(sample(found), GOLDEN.figures["prompt/dense_pe/sample"])


@pytest.mark.parametrize("name", PROMPTS)
def test_sparse_embedding(sam: Sam, name: str) -> None:
    prompt = GOLDEN.prompt(name)
    points = boxes = None
    if prompt.points:
        xy = torch.tensor([[(p.x, p.y) for p in prompt.points]], dtype=torch.float32)
        points = xy, torch.tensor([[p.label for p in prompt.points]])
    if prompt.box is not None:
        boxes = torch.tensor([prompt.box], dtype=torch.float32)
    with torch.inference_mode():
        sparse, _ = sam.prompt_encoder(points, boxes, None)
    assert_near(sparse[0].numpy(), GOLDEN.figures[f"prompt/{name}/sparse"])


def dense_of_e(sam: Sam, answers: Answers) -> Floats:
    """The sampled dense embedding of the mask that prompt `e` feeds back."""
    prompt = answers["e"][0].prompt
    assert prompt is not None
    assert prompt.mask_input is not None
    with torch.inference_mode():
        _, dense = sam.prompt_encoder(None, None, torch.from_numpy(prompt.mask_input)[None, None])
    return sample(dense.numpy())


def test_dense_embedding_of_a_mask(sam: Sam, decoded: Answers) -> None:
    assert_near(dense_of_e(sam, decoded), GOLDEN.figures["prompt/e/synth/dense/sample"])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PROMPTS)
def test_decoder(decoded: Answers, name: str, mode: str) -> None:
    assert_decoded(GOLDEN, f"dec/synth/{name}", mode, decoded[name][1])


# ------------------------------------------------------------------ the photograph, where it is


@dataclass(frozen=True, kw_only=True)
class OnPhoto:
    """The full figures, the photograph on its way into the model, and what came out."""

    golden: Golden
    image: NDArray[np.uint8]
    frame: Frame
    resized: NDArray[np.uint8]
    stages: Stats
    embedding: Floats
    answers: Answers


@pytest.fixture(scope="module")
def photo(sam: Sam, shared: Path) -> OnPhoto:
    golden = golden_weights.load("vit_t", shared / "golden")
    image = load_image(shared / "images" / "truck.jpg")
    frame = frame_of((image.shape[0], image.shape[1]), SAM_PREPROCESS)
    resized = resize(image, frame.resized)
    with watched(sam) as stages:
        outputs = SAM_ENCODER.reference(sam, Sample(image=image))
    embedding = outputs["image_embeddings"]
    return OnPhoto(
        golden=golden,
        image=image,
        frame=frame,
        resized=resized,
        stages=stages,
        embedding=embedding,
        answers=decode_all(sam, golden, embedding),
    )


@pytest.mark.shared
def test_photo_is_decoded_and_resized_to_the_authors_pixels(photo: OnPhoto) -> None:
    facts = photo.golden.manifest["photo"]
    assert hashlib.sha256(photo.image.tobytes()).hexdigest() == facts["decoded_rgb_sha256"]
    assert hashlib.sha256(photo.resized.tobytes()).hexdigest() == facts["resized_rgb_sha256"]


@pytest.mark.shared
def test_normalised_photo(sam: Sam, photo: OnPhoto) -> None:
    pixels = torch.from_numpy(photo.resized.copy()).permute(2, 0, 1)[None].float()
    found = sam.preprocess(pixels).numpy()
    assert found.shape == (1, 3, 1024, 1024)
    assert_near(sample(found), photo.golden.figures["input/photo/sample"])
    assert_stats_near(stats(found), photo.golden.figures["input/photo/stats"])


@pytest.mark.shared
def test_embedding_of_the_photo(photo: OnPhoto) -> None:
    assert_near(sample(photo.embedding), photo.golden.figures["enc/photo/sample"])


@pytest.mark.shared
@pytest.mark.parametrize("stage", STAGES)
def test_stage_on_the_photo(photo: OnPhoto, stage: str) -> None:
    assert_stats_near(photo.stages[stage], photo.golden.figures[f"stage/photo/{stage}"])


@pytest.mark.shared
@pytest.mark.parametrize("name", PROMPTS)
def test_prompt_in_the_model_frame(photo: OnPhoto, name: str) -> None:
    moved = prompt_to_model(photo.golden.prompt(name, "original"), photo.frame)
    assert moved == photo.golden.prompt(name)


@pytest.mark.shared
def test_dense_embedding_of_a_mask_of_the_photo(sam: Sam, photo: OnPhoto) -> None:
    assert_near(dense_of_e(sam, photo.answers), photo.golden.figures["prompt/e/photo/dense/sample"])


@pytest.mark.shared
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PROMPTS)
def test_decoder_on_the_photo(photo: OnPhoto, name: str, mode: str) -> None:
    assert_decoded(photo.golden, f"dec/photo/{name}", mode, photo.answers[name][1])


@pytest.mark.shared
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["a", "c"])
def test_masks_at_the_size_of_the_photo(photo: OnPhoto, name: str, mode: str) -> None:
    low_res = photo.answers[name][1]["low_res_masks"][0, MODES[mode]]
    logits = upscale_masks(low_res, photo.frame, SAM_MASKS)
    figures = {
        k: photo.golden.figures[f"final/photo/{name}/{mode}/{k}"]
        for k in ("logits/sample", "area", "near_zero")
    }
    assert_near(sample(logits), figures["logits/sample"])
    areas = (logits > 0).sum((1, 2))
    assert (np.abs(areas - figures["area"]) <= figures["near_zero"]).all()


@pytest.mark.shared
@pytest.mark.parametrize("name", ["a", "c"])
def test_bits_of_the_mask_of_the_photo(photo: OnPhoto, name: str) -> None:
    low_res = photo.answers[name][1]["low_res_masks"][0, :1]
    key = f"final/photo/{name}/m1"
    shape = tuple(photo.golden.figures[f"{key}/shape"])
    bits = np.unpackbits(photo.golden.figures[f"{key}/bits"], count=int(np.prod(shape)))
    flipped = (upscale_masks(low_res, photo.frame, SAM_MASKS) > 0) != bits.reshape(shape).astype(
        bool
    )
    assert flipped.sum() <= photo.golden.figures[f"{key}/near_zero"][0]
