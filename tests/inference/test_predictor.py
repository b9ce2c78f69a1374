"""`effsam_export.load`: the calls of SamPredictor on a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import effsam_export
from effsam_export.bundle import archive, read
from effsam_export.errors import BundleError, EffsamError, ImageError, PromptError, UsageError
from effsam_export.imaging.decode import read_image
from effsam_export.inference import runner, segment
from effsam_export.inference.automatic_masks import GridSettings
from effsam_export.spec.prompts import Point, Prompt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from effsam_export.inference.predictor import Predictor

pytestmark = pytest.mark.backend

POINT, LABEL = np.array([[60, 40]]), np.array([1])
BOX = np.array([30, 10, 90, 70])


@pytest.fixture
def predictor(bundle: Path, photo: Path) -> Predictor:
    found = effsam_export.load(bundle)
    found.set_image(photo)
    return found


def test_the_calls_of_the_notebook(bundle: Path, photo: Path) -> None:
    """As segment-anything's `predictor_example.ipynb` writes them."""
    predictor = effsam_export.load(str(bundle))
    image = np.asarray(Image.open(photo).convert("RGB"))
    predictor.set_image(image)
    masks, scores, logits = predictor.predict(
        point_coords=POINT,
        point_labels=LABEL,
        multimask_output=True,
    )
    assert masks.shape == (3, 80, 120)
    assert masks.dtype == bool
    assert scores.shape == (3,)
    assert logits is not None
    assert logits.shape == (3, 256, 256)
    mask_input = logits[np.argmax(scores), :, :]
    masks, _, _ = predictor.predict(
        point_coords=np.array([[60, 40], [10, 70]]),
        point_labels=np.array([1, 0]),
        mask_input=mask_input[None, :, :],
        multimask_output=False,
    )
    assert masks.shape == (1, 80, 120)
    masks, _, _ = predictor.predict(
        point_coords=None, point_labels=None, box=BOX[None, :], multimask_output=False
    )
    assert masks.shape == (1, 80, 120)


def test_masks_are_those_of_effsam_run_in_the_order_of_the_set(
    predictor: Predictor, bundle: Path, photo: Path
) -> None:
    prompt = Prompt(points=(Point(x=60, y=40),))
    sorted_ones = segment.segment(bundle, photo, [prompt]).prediction
    masks, scores, low_res = predictor.predict(POINT, LABEL)
    assert low_res is not None
    assert sorted_ones.low_res_masks is not None
    first = read.read(bundle).model.masks.multimask[0]
    for place, index in enumerate(sorted_ones.indices):
        at = index - first
        assert np.array_equal(masks[at], sorted_ones.masks[place])
        assert scores[at] == sorted_ones.scores[place]
        assert np.array_equal(low_res[at], sorted_ones.low_res_masks[place])


def test_logits_are_those_of_the_masks(predictor: Predictor) -> None:
    masks = predictor.predict(POINT, LABEL).masks
    logits = predictor.predict(POINT, LABEL, return_logits=True).masks
    assert logits.dtype == np.float32
    assert np.array_equal(logits > 0, masks)


def test_a_path_an_array_and_a_picture_are_the_same(predictor: Predictor, photo: Path) -> None:
    wanted = predictor.predict(POINT, LABEL)
    pixels = read_image(photo).pixels
    bgr = pixels[:, :, ::-1]
    for given, order in (
        (str(photo), "RGB"),
        (pixels, "RGB"),
        (bgr, "BGR"),
        (Image.open(photo), "RGB"),
    ):
        predictor.set_image(given, order)
        assert np.array_equal(predictor.predict(POINT, LABEL).masks, wanted.masks)


def test_an_image_is_encoded_once(
    bundle: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    embed = runner.embed

    def counted(*given: Any) -> runner.Embedded:  # noqa: ANN401 - the arguments of `embed`
        encoded.append(given)
        return embed(*given)

    monkeypatch.setattr(runner, "embed", counted)
    with effsam_export.load(bundle) as predictor:
        predictor.set_image(photo)
        for x in range(10):
            predictor.predict(np.array([[10 * x + 5, 40]]), LABEL)
        predictor.predict_batch(boxes=np.stack([BOX, BOX]))
        predictor.generate(GridSettings(points_per_side=2))
        assert len(encoded) == 1
        predictor.set_image(photo)
        assert len(encoded) == 2


def test_a_batch_is_its_prompts(predictor: Predictor) -> None:
    coords = np.array([[[60, 40]], [[20, 20]], [[100, 70]]])
    labels = np.ones((3, 1))
    found = predictor.predict_batch(coords, labels)
    assert found.masks is not None
    assert found.low_res_masks is not None
    for i in range(3):
        one = predictor.predict(coords[i], labels[i])
        assert one.low_res_masks is not None
        # A call for several prompts sums in another order.
        assert np.allclose(found.low_res_masks[i], one.low_res_masks, atol=1e-3)
        assert np.allclose(found.scores[i], one.scores, atol=1e-5)
        assert (found.masks[i] != one.masks).mean() < 1e-3
    small = predictor.predict_batch(coords, labels, low_res_only=True)
    assert small.masks is None
    assert np.array_equal(small.low_res_masks, found.low_res_masks)  # type: ignore[arg-type]
    boxes = predictor.predict_batch(boxes=np.stack([BOX, BOX]), multimask_output=False)
    assert boxes.masks is not None
    assert boxes.masks.shape == (2, 1, 80, 120)


def test_generated_masks_have_the_authors_keys(predictor: Predictor) -> None:
    settings = GridSettings(points_per_side=2, score=-1e9, stability=0)
    found = predictor.generate(settings)
    assert found
    for mask in found:
        assert set(mask) == {
            *("segmentation", "area", "bbox", "predicted_iou", "stability_score"),
            *("point_coords", "crop_box"),
        }
        assert mask["segmentation"].sum() == mask["area"]


def test_a_packed_bundle(bundle: Path, photo: Path, tmp_path: Path) -> None:
    packed = tmp_path / "tiny.effsam.zip"
    archive.pack(bundle, packed)
    with effsam_export.load(packed) as predictor:
        predictor.set_image(photo)
        assert predictor.model_name == "tiny-sam"
        assert predictor.predict(POINT, LABEL).masks.shape == (3, 80, 120)
    with pytest.raises(UsageError, match="the predictor is closed"):
        predictor.predict(POINT, LABEL)
    predictor.close()


# ------------------------------------------------------------------ what is refused


def test_a_prompt_before_an_image(bundle: Path, photo: Path) -> None:
    predictor = effsam_export.load(bundle)
    assert not predictor.is_image_set
    for call in (lambda: predictor.predict(POINT, LABEL), predictor.generate):
        with pytest.raises(UsageError, match="no image is set"):
            call()
    predictor.set_image(photo)
    predictor.reset_image()
    with pytest.raises(UsageError, match="no image is set"):
        predictor.predict(POINT, LABEL)


def test_an_image_that_fails_leaves_none(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        predictor.set_image(tmp_path / "absent.png")
    assert not predictor.is_image_set


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        None,
        3,
    ],
)
def test_an_image_of_another_form(predictor: Predictor, image: object) -> None:
    with pytest.raises(ImageError, match="want uint8 HxWx3"):
        predictor.set_image(image)


@pytest.mark.parametrize(
    "call",
    [
        lambda p: p.predict(),
        lambda p: p.predict(POINT),
        lambda p: p.predict(None, LABEL),
        lambda p: p.predict(POINT, np.array([1, 1])),
        lambda p: p.predict(POINT, np.array([7])),
        lambda p: p.predict(np.array([60, 40]), LABEL),
        lambda p: p.predict(np.array([[np.nan, 40]]), LABEL),
        lambda p: p.predict(np.array([[500, 40]]), LABEL),
        lambda p: p.predict("here", LABEL),
        lambda p: p.predict(box=np.array([1, 2, 3])),
        lambda p: p.predict(box=np.array([50, 50, 10, 10])),
        lambda p: p.predict(POINT, LABEL, mask_input=np.zeros((1, 8, 8))),
        lambda p: p.predict_batch(),
        lambda p: p.predict_batch(np.zeros((0, 1, 2)), np.zeros((0, 1))),
        lambda p: p.predict_batch(np.zeros((2, 1, 2)), np.zeros((3, 1))),
        lambda p: p.predict_batch(np.zeros((2, 2))),
        lambda p: p.predict_batch(boxes=BOX),
    ],
)
def test_arguments_of_another_form(
    predictor: Predictor, call: Callable[[Predictor], object]
) -> None:
    with pytest.raises(PromptError):
        call(predictor)


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        effsam_export.load(tmp_path)


def test_arguments_of_an_export(tmp_path: Path) -> None:
    with pytest.raises(EffsamError, match="unknown model `nosuch`"):
        effsam_export.export("nosuch", target="onnx")
    with pytest.raises(UsageError, match="--base: for a file of your own only"):
        effsam_export.export("mobile-sam", target="onnx", base=tmp_path)
