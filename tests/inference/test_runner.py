"""The inputs and outputs of the two graphs, with sessions that record their inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from effsam_export import models
from effsam_export.errors import PromptError
from effsam_export.imaging.images import Frame, pad, resize
from effsam_export.inference import runner
from effsam_export.inference.runner import Embedded
from effsam_export.models.batching import with_batch
from effsam_export.spec.batches import ANY
from effsam_export.spec.prompts import Point, Prompt, Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from effsam_export.spec.tensors import Feeds

MODEL = models.get("mobile-sam")
FRAME = Frame(
    original=(60, 120), resized=(512, 1024), image_size=1024, prompt=(512, 1024), prompt_size=1024
)
SCORES = (0.9, 0.2, 0.8, 0.5)


class Recorder:
    """A session that gives fixed outputs and keeps what it was fed."""

    def __init__(self, **outputs: NDArray[np.floating]) -> None:
        self.outputs = outputs
        self.fed: list[Feeds] = []

    def run(self, feeds: Feeds) -> Feeds:
        self.fed.append(feeds)
        return self.outputs


def decoder(scores: tuple[float, ...] = SCORES, dtype: str = "float32") -> Recorder:
    """Its mask i is i - 1.5 all over: the first two are empty, the others full."""
    levels = np.arange(4) - 1.5
    low_res = np.broadcast_to(levels[None, :, None, None], (1, 4, 256, 256)).astype(dtype)
    return Recorder(low_res_masks=low_res, iou_predictions=np.array([scores], dtype=dtype))


@pytest.fixture
def embedded() -> Embedded:
    embeddings = np.full((1, 256, 64, 64), 3, dtype=np.float32)
    sample = Sample(image=np.zeros((512, 1024, 3), dtype=np.uint8), embeddings=embeddings)
    return Embedded(frame=FRAME, sample=sample)


POINT = Prompt(points=(Point(x=30, y=15),))


# ------------------------------------------------------------------ the encoder


def test_embed_feeds_the_resized_and_padded_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 120, 3), dtype=np.uint8)
    embeddings = np.ones((1, 256, 64, 64), dtype=np.float32)
    encoder = Recorder(image_embeddings=embeddings)
    found = runner.embed(MODEL, encoder, image)
    assert found.frame == FRAME
    assert found.sample.embeddings is embeddings
    assert found.sample.prompt is None
    (feeds,) = encoder.fed
    assert list(feeds) == ["image"]
    np.testing.assert_array_equal(
        feeds["image"], pad(resize(image, FRAME.resized), MODEL.preprocess)
    )


def test_embed_fills_every_slot_and_reads_the_first() -> None:
    model = with_batch(MODEL, 3)
    image = np.random.default_rng(0).integers(0, 256, (60, 120, 3), dtype=np.uint8)
    embeddings = np.arange(3, dtype=np.float32)[:, None, None, None] * np.ones((3, 256, 64, 64))
    encoder = Recorder(image_embeddings=embeddings)
    found = runner.embed(model, encoder, image)
    wanted = pad(resize(image, FRAME.resized), MODEL.preprocess)
    np.testing.assert_array_equal(encoder.fed[0]["image"], np.concatenate([wanted] * 3))
    assert found.sample.embeddings is not None
    np.testing.assert_array_equal(found.sample.embeddings, embeddings[:1])
    one = Recorder(image_embeddings=embeddings[1:2])
    assert runner.embed(with_batch(MODEL, ANY), one, image).frame == FRAME
    np.testing.assert_array_equal(one.fed[0]["image"], wanted)


# ------------------------------------------------------------------ what the decoder is fed

SCALE = 1024 / 120


@pytest.mark.parametrize(
    ("prompt", "coords", "labels"),
    [
        (POINT, [[30, 15], [0, 0]], [1, -1]),
        (
            Prompt(points=(Point(x=30, y=15), Point(x=0, y=59, label=0))),
            [[30, 15], [0, 59], [0, 0]],
            [1, 0, -1],
        ),
        (Prompt(box=(3, 6, 60, 30)), [[3, 6], [60, 30]], [2, 3]),
        (
            Prompt(points=(Point(x=9, y=9, label=0),), box=(3, 6, 60, 30)),
            [[9, 9], [3, 6], [60, 30]],
            [0, 2, 3],
        ),
    ],
    ids=["point", "points", "box", "point and box"],
)
def test_predict_feeds_points_and_boxes_in_the_model_frame(
    embedded: Embedded, prompt: Prompt, coords: list[list[int]], labels: list[int]
) -> None:
    session = decoder()
    runner.predict(MODEL, session, embedded, prompt)
    (feeds,) = session.fed
    assert list(feeds) == [t.name for t in MODEL.component("decoder").inputs]
    assert {v.dtype for v in feeds.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(feeds["point_coords"], np.array([coords]) * SCALE, rtol=1e-6)
    np.testing.assert_array_equal(feeds["point_labels"], [labels])
    assert feeds["image_embeddings"] is embedded.sample.embeddings


def test_predict_passes_the_mask_input(embedded: Embedded) -> None:
    session, mask = decoder(), np.full((256, 256), 7, dtype=np.float32)
    runner.predict(MODEL, session, embedded, replace(POINT, mask_input=mask))
    np.testing.assert_array_equal(session.fed[0]["mask_input"], mask[None, None])
    assert session.fed[0]["has_mask_input"].tolist() == [1]


def test_predict_without_a_mask_feeds_zeros(embedded: Embedded) -> None:
    session = decoder()
    runner.predict(MODEL, session, embedded, POINT)
    assert session.fed[0]["mask_input"].shape == (1, 1, 256, 256)
    assert not session.fed[0]["mask_input"].any()
    assert session.fed[0]["has_mask_input"].tolist() == [0]


def test_a_prompt_outside_the_image_does_not_run(embedded: Embedded) -> None:
    session = decoder()
    with pytest.raises(PromptError) as caught:
        runner.predict(MODEL, session, embedded, Prompt(points=(Point(x=120, y=15),)))
    assert caught.value.message == "point (120, 15) is outside the image of 120x60 pixels"
    assert not session.fed


# ------------------------------------------------------------------ what is made of its answer


def test_multimask_outputs_are_ordered_by_score(embedded: Embedded) -> None:
    found = runner.predict(MODEL, decoder(), embedded, POINT)
    assert found.indices == (2, 3, 1)
    np.testing.assert_array_equal(found.scores, np.array([0.8, 0.5, 0.2], dtype=np.float32))
    assert found.low_res_masks is not None
    assert found.low_res_masks[:, 0, 0].tolist() == [0.5, 1.5, -0.5]
    assert [bool(m.all()) for m in found.masks] == [True, True, False]


def test_single_mask_is_the_first_output(embedded: Embedded) -> None:
    found = runner.predict(MODEL, decoder(), embedded, POINT, single_mask=True)
    assert found.indices == (0,)
    np.testing.assert_array_equal(found.scores, np.array([0.9], dtype=np.float32))
    assert not found.masks.any()


def test_equal_scores_keep_the_order_of_the_decoder(embedded: Embedded) -> None:
    found = runner.predict(MODEL, decoder((0.5,) * 4), embedded, POINT)
    assert found.indices == (1, 2, 3)


@pytest.mark.parametrize(
    ("threshold", "full"),
    [(-1.0, [True, True, True]), (0.5, [False, True, False]), (1.5, [False, False, False])],
)
def test_a_mask_holds_logits_above_the_threshold(threshold: float, full: list[bool]) -> None:
    masks = replace(MODEL.masks, threshold=threshold)
    found = runner.select(decoder().outputs, masks.multimask, masks, FRAME)
    assert [bool(m.all()) for m in found.masks] == full
    assert [bool(m.any()) for m in found.masks] == full


def test_masks_have_the_size_of_the_image(embedded: Embedded) -> None:
    found = runner.predict(MODEL, decoder(), embedded, POINT)
    assert (found.masks.shape, found.masks.dtype) == ((3, 60, 120), np.dtype(np.bool_))
    assert found.low_res_masks is not None
    assert found.low_res_masks.shape == (3, 256, 256)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_dtypes_of_a_runtime_become_float32(embedded: Embedded, dtype: str) -> None:
    found = runner.predict(MODEL, decoder(dtype=dtype), embedded, POINT)
    assert found.low_res_masks is not None
    assert found.scores.dtype == found.low_res_masks.dtype == np.float32
    assert found.low_res_masks.flags.c_contiguous
