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

from effsam_export import trace
from effsam_export.errors import PromptError
from effsam_export.images import (
    check_prompt,
    encoder_image,
    frame_of,
    load_image,
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
from effsam_export.models.efficient_sam.encoder import Block, ExportAttention, ExportImageEncoder
from effsam_export.models.efficient_sam.export import ExportDecoder, StagedGroupNorm
from effsam_export.models.efficient_sam.prompt_encoder import six_slots
from effsam_export.models.efficient_sam.spec import EFFICIENT_SAM_S, EFFICIENT_SAM_TI, build
from effsam_export.models.loading import settle_vector_maths
from effsam_export.models.sam.export import NECK_FOLD
from effsam_export.spec import Point, Prompt, Sample
from tests import golden_weights
from tests.golden_weights import compare
from tests.sampled import MAX_DIFFERENCE, assert_near, assert_score

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from effsam_export.backends import Session
    from effsam_export.models.efficient_sam.module import EfficientSam
    from effsam_export.spec import ComponentSpec, Feeds, ModelSpec
    from tests.golden_weights import Floats, Golden

pytestmark = pytest.mark.backend

GOLDEN = golden_weights.load("efficientsam_vitt")
CASES: dict[str, Any] = GOLDEN.manifest["prompts"]["noise"]
MODES = {"multi": slice(1, None), "single": slice(0, 1)}
Answer = tuple["Floats", "Floats"]

MAX_ERROR, RMS_ERROR = golden_weights.MAX_ERROR, golden_weights.RMS_ERROR
BOX = (200.0, 150.0, 800.0, 700.0)
PROMPTS_OF_OURS = {
    "point": Prompt(points=(Point(x=512, y=384),)),
    "box": Prompt(box=BOX),
    "point and box": Prompt(points=(Point(x=450, y=400),), box=BOX),
    "box past the edge": Prompt(box=(-20.5, -0.25, 800, 700)),
    "six points": Prompt(points=tuple(Point(x=100 * i, y=90 * i) for i in range(1, 7))),
}


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
        (Prompt(points=(Point(x=1, y=1, label=0),)), "this model has no background points"),
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


def test_component_reference_gives_the_three_masks_of_the_authors(
    sam: EfficientSam, embedding: torch.Tensor
) -> None:
    found = DECODER.reference(sam, sample_of(embedding, PROMPTS_OF_OURS["point and box"]))
    assert_near(GOLDEN, "noise.d.multi.logits", found["low_res_masks"])
    assert_score(found["iou_predictions"], GOLDEN, "noise.d.multi.iou", MAX_DIFFERENCE)


def test_export_form_of_the_encoder(sam: EfficientSam) -> None:
    pixels = golden_weights.generator(5).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    given = Sample(image=pixels)
    wanted = ENCODER.reference(sam, given)["image_embeddings"]
    found = run(ENCODER.wrap(sam), ENCODER, ENCODER.feeds(PREPROCESS, given))
    assert_same(found["image_embeddings"], wanted)


def test_export_form_shares_the_weights_and_leaves_the_encoder_alone(sam: EfficientSam) -> None:
    encoder = sam.image_encoder
    names = list(encoder.state_dict())
    form = encoder.export_form()
    assert isinstance(form, ExportImageEncoder)
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
    assert torch.equal(folded * NECK_FOLD, sam.state_dict()[name])


def test_staged_group_norm_is_group_norm() -> None:
    norm = nn.GroupNorm(1, 64)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.from_numpy(golden_weights.generator(3).standard_normal((2, 64, 32, 32))).float()
    with torch.inference_mode():
        assert_same(StagedGroupNorm(norm)(3 * x + 1).numpy(), norm(3 * x + 1).numpy())


def test_staged_group_norm_refuses_several_groups() -> None:
    with pytest.raises(AssertionError):
        StagedGroupNorm(nn.GroupNorm(2, 64))


def test_points_off_the_image_are_no_position(sam: EfficientSam) -> None:
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
    runtime = pytest.importorskip("effsam_export.backends.onnxruntime")
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


def test_onnx_encoder(sam: EfficientSam, tmp_path: Path) -> None:
    pixels = golden_weights.generator(6).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    given = Sample(image=pixels)
    found = session(sam, ENCODER, tmp_path).run(ENCODER.feeds(PREPROCESS, given))
    wanted = ENCODER.reference(sam, given)
    assert_same(found["image_embeddings"], wanted["image_embeddings"])


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
