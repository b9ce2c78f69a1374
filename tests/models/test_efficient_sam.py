"""EfficientSAM's definition and graphs against the authors' own code, on weights made from names.

Prompts of the figures: `a` one point, `b` three of which one has label 0, `c` a box, `d` a point
and a box, `q2` two prompts at once, `p8` eight points, of which the authors drop two.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from effsam_export.errors import PromptError
from effsam_export.imaging.decode import load_image
from effsam_export.imaging.images import (
    check_prompt,
    encoder_image,
    frame_of,
    prompt_to_model,
    upscale_masks,
)
from effsam_export.models.efficient_sam.components import (
    DECODER,
    ENCODER,
    MASKS,
    MAX_POINTS,
    PREPROCESS,
    PROMPTS,
    as_efficient_sam,
)
from effsam_export.models.efficient_sam.prompt_encoder import six_slots
from effsam_export.models.efficient_sam.spec import EFFICIENT_SAM_S, EFFICIENT_SAM_TI, build
from effsam_export.spec.prompts import Point, Prompt, Sample
from effsam_export.weights.checkpoint import settle_vector_maths
from tests import golden_weights
from tests.sampled import MAX_DIFFERENCE, assert_near, assert_score

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from effsam_export.models.efficient_sam.module import EfficientSam
    from effsam_export.spec.model import ModelSpec
    from tests.golden_weights import Floats, Golden

pytestmark = pytest.mark.backend

GOLDEN = golden_weights.load("efficientsam_vitt")
CASES: dict[str, Any] = GOLDEN.manifest["prompts"]["noise"]
MODES = {"multi": slice(1, None), "single": slice(0, 1)}
Answer = tuple["Floats", "Floats"]

BOX = (200.0, 150.0, 800.0, 700.0)


# ------------------------------------------------------------------ what is compared


@pytest.fixture(scope="module")
def sam() -> EfficientSam:
    """EfficientSAM-Ti with the deterministic weights, loaded strictly."""
    settle_vector_maths()
    return as_efficient_sam(golden_weights.load_weights(build("ti"), GOLDEN))


@pytest.fixture(scope="module")
def embedding(sam: EfficientSam) -> torch.Tensor:
    """The embedding of noise."""
    with torch.inference_mode():
        out: torch.Tensor = sam.image_encoder(torch.from_numpy(golden_weights.noise_image()))
    return out


def ask(
    sam: EfficientSam, embedding: torch.Tensor, case: dict[str, Any], size: tuple[int, int]
) -> Answer:
    """All four masks and scores for the points of a manifest."""
    points, labels = torch.tensor(case["points"]), torch.tensor(case["labels"])
    with torch.inference_mode():
        low_res, iou = sam.decode(embedding, points, labels, size)
    return low_res.numpy(), iou.numpy()


def assert_answer(golden: Golden, key: str, answer: Answer) -> None:
    """Masks and scores of both modes, where they are kept, against the figures at `key`."""
    kept = [mode for mode in MODES if f"{key}.{mode}.logits" in golden.figures]
    assert "multi" in kept
    for mode in kept:
        assert_near(golden, f"{key}.{mode}.logits", answer[0][:, MODES[mode]])
        assert_score(answer[1][:, MODES[mode]], golden, f"{key}.{mode}.iou", MAX_DIFFERENCE)


def sample_of(embedding: torch.Tensor, prompt: Prompt) -> Sample:
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    return Sample(image=image, embeddings=embedding.numpy(), prompt=prompt)


def entries(module: nn.Module) -> list[list[Any]]:
    return [
        [name, list(value.shape), str(value.dtype).removeprefix("torch.")]
        for name, value in module.state_dict().items()
    ]


# ------------------------------------------------------------------ names and constants


def test_state_dict_has_the_names_shapes_and_order_of_the_authors() -> None:
    assert entries(build("ti")) == GOLDEN.manifest["entries"]


def test_number_of_parameters() -> None:
    assert sum(p.numel() for p in build("ti").parameters()) == GOLDEN.manifest["n_params"]


@pytest.mark.shared
def test_small_has_the_names_shapes_order_and_number_of_the_authors(shared: Path) -> None:
    text = (shared / "golden" / "efficientsam_vits" / "manifest.json").read_text("utf-8")
    manifest = json.loads(text)
    module = build("s")
    assert entries(module) == manifest["entries"]
    assert sum(p.numel() for p in module.parameters()) == manifest["n_params"]


def test_normalisation_is_the_authors_times_255(sam: EfficientSam) -> None:
    for stated, own, key in (
        (PREPROCESS.pixel_mean, sam.pixel_mean, "pixel_mean"),
        (PREPROCESS.pixel_std, sam.pixel_std, "pixel_std"),
    ):
        assert own.flatten().tolist() == pytest.approx(GOLDEN.manifest[key])
        assert list(stated) == pytest.approx([255 * value for value in GOLDEN.manifest[key]])


@pytest.mark.parametrize("spec", [EFFICIENT_SAM_TI, EFFICIENT_SAM_S], ids=lambda s: s.name)
def test_spec_has_three_masks_and_no_single_one(spec: ModelSpec) -> None:
    assert spec.masks.single == ()
    assert spec.masks.multimask == (0, 1, 2)
    assert spec.masks.upscale == "bicubic"
    assert (spec.prompts.negative_points, spec.prompts.mask) == (False, False)
    assert spec.prompts.max_points == MAX_POINTS == 6


# ------------------------------------------------------------------ the reference


def test_embedding_of_noise(embedding: torch.Tensor) -> None:
    assert_near(GOLDEN, "noise.embedding", embedding.numpy())


@pytest.mark.parametrize("name", CASES)
def test_decoder(sam: EfficientSam, embedding: torch.Tensor, name: str) -> None:
    assert_answer(GOLDEN, f"noise.{name}", ask(sam, embedding, CASES[name], (1024, 1024)))


def test_component_reference_gives_the_three_masks_of_the_authors(
    sam: EfficientSam, embedding: torch.Tensor
) -> None:
    found = DECODER.reference(
        sam, sample_of(embedding, Prompt(points=(Point(x=450, y=400),), box=BOX))
    )
    assert_near(GOLDEN, "noise.d.multi.logits", found["low_res_masks"])
    assert_score(found["iou_predictions"], GOLDEN, "noise.d.multi.iou", MAX_DIFFERENCE)


def test_two_prompts_are_two_answers(sam: EfficientSam, embedding: torch.Tensor) -> None:
    low_res, iou = ask(sam, embedding, CASES["q2"], (1024, 1024))
    assert (low_res.shape, iou.shape) == ((2, 4, 256, 256), (2, 4))


def test_six_slots_fill_up_and_cut_off() -> None:
    coords, labels = six_slots(torch.ones(2, 4, 2), torch.ones(2, 4))
    assert (coords[:, 4:] == -1).all()
    assert labels.tolist() == [[1, 1, 1, 1, -1, -1]] * 2
    coords, labels = six_slots(torch.arange(16.0).view(1, 8, 2), torch.arange(8).view(1, 8))
    assert coords.tolist() == torch.arange(12.0).view(1, 6, 2).tolist()
    assert labels.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_points_beyond_six_change_nothing(sam: EfficientSam, embedding: torch.Tensor) -> None:
    case = CASES["p8"]
    cut = {key: [case[key][0][:6]] for key in ("points", "labels")}
    whole, first = (ask(sam, embedding, c, (1024, 1024)) for c in (case, cut))
    assert np.array_equal(whole[0], first[0])


def test_coordinates_are_in_the_frame_that_is_named(
    sam: EfficientSam, embedding: torch.Tensor
) -> None:
    half = {"points": [[[256.0, 96.0]]], "labels": [[1]]}
    found = ask(sam, embedding, half, (256, 512))
    assert np.array_equal(found[0], ask(sam, embedding, CASES["a"], (1024, 1024))[0])


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (Prompt(points=(Point(x=1, y=1, label=0),)), "this model takes no background points"),
        (
            Prompt(points=tuple(Point(x=i, y=i) for i in range(8))),
            "this model takes 6 points, not 8",
        ),
        (
            Prompt(points=tuple(Point(x=i, y=i) for i in range(5)), box=(1, 1, 5, 5)),
            "this model takes 6 points, a box counting as two, not 7",
        ),
        (
            Prompt(points=(Point(x=1, y=1),), mask_input=np.zeros((256, 256), dtype=np.float32)),
            "this model takes no mask",
        ),
    ],
    ids=["background", "eight points", "five and a box", "mask"],
)
def test_prompt_that_is_refused(prompt: Prompt, reason: str) -> None:
    with pytest.raises(PromptError) as caught:
        check_prompt(prompt, (100, 100), PROMPTS)
    assert caught.value.message == reason


def test_prompt_that_fills_all_slots_is_taken() -> None:
    points = tuple(Point(x=i, y=i) for i in range(4))
    check_prompt(Prompt(points=points, box=(1, 1, 5, 5)), (100, 100), PROMPTS)


def test_feeds_of_a_prompt_that_should_have_been_refused() -> None:
    too_many = Prompt(points=tuple(Point(x=i, y=i) for i in range(7)))
    with pytest.raises(AssertionError):
        DECODER.feeds(PREPROCESS, sample_of(torch.zeros(1), too_many))


# ------------------------------------------------------------------ the photograph, where it is


@dataclass(frozen=True, kw_only=True)
class OnPhoto:
    """The full figures, the photograph, its normalised square and its embedding."""

    golden: Golden
    image: NDArray[np.uint8]
    square: Floats
    embedding: torch.Tensor


@pytest.fixture(scope="module")
def photo(sam: EfficientSam, shared: Path) -> OnPhoto:
    image = load_image(shared / "images" / "truck.jpg")
    planes = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32)) / 255
    found = ENCODER.reference(sam, Sample(image=image))["image_embeddings"]
    return OnPhoto(
        golden=golden_weights.load("efficientsam_vitt", shared / "golden"),
        image=image,
        square=sam.preprocess(planes).numpy(),
        embedding=torch.from_numpy(found),
    )


@pytest.mark.shared
def test_photo_is_decoded_and_squashed_to_the_authors_pixels(photo: OnPhoto) -> None:
    facts = photo.golden.manifest["photo"]
    assert hashlib.sha256(photo.image.tobytes()).hexdigest() == facts["rgb_sha256"]
    assert_near(photo.golden, "photo.input", photo.square)
    ours = encoder_image(photo.image, PREPROCESS)
    mean, std = (np.reshape(v, (3, 1, 1)) for v in (PREPROCESS.pixel_mean, PREPROCESS.pixel_std))
    assert_near(photo.golden, "photo.input", (ours - mean) / std)


@pytest.mark.shared
def test_embedding_of_the_photo(photo: OnPhoto) -> None:
    assert_near(photo.golden, "photo.embedding", photo.embedding.numpy())


@pytest.mark.shared
@pytest.mark.parametrize("name", CASES)
def test_decoder_on_the_photo(sam: EfficientSam, photo: OnPhoto, name: str) -> None:
    case = photo.golden.manifest["prompts"]["photo"][name]
    size = (photo.image.shape[0], photo.image.shape[1])
    assert_answer(photo.golden, f"photo.{name}", ask(sam, photo.embedding, case, size))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("a", Prompt(points=(Point(x=500, y=375),))),
        ("c", Prompt(box=(425, 600, 700, 875))),
    ],
)
def test_masks_at_the_size_of_the_photo(
    sam: EfficientSam, photo: OnPhoto, name: str, prompt: Prompt
) -> None:
    frame = frame_of((photo.image.shape[0], photo.image.shape[1]), PREPROCESS)
    given = sample_of(photo.embedding, prompt_to_model(prompt, frame))
    answer = DECODER.reference(sam, given)
    figures, key = photo.golden.figures, f"photo.{name}.multi"
    order = np.argsort(-answer["iou_predictions"][0], kind="stable")
    assert order.tolist() == figures[f"{key}.order"].ravel().tolist()
    assert order[0] == figures[f"{key}.best"]
    logits = upscale_masks(answer["low_res_masks"][0], frame, MASKS)
    near_zero = np.abs(logits) <= MAX_DIFFERENCE
    areas = (logits >= 0).sum((1, 2))
    assert (np.abs(areas - figures[f"{key}.area"]) <= near_zero.sum((1, 2))).all()
    bits = np.unpackbits(figures[f"{key}.bits"], count=logits[0].size).reshape(logits[0].shape)
    flipped = (logits[order[0]] >= 0) != bits.astype(bool)
    assert not (flipped & ~near_zero[order[0]]).any()
