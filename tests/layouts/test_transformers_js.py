"""Transformers.js: its own steps around our graphs show our masks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

import effsam_export
from effsam_export.imaging.images import frame_of
from effsam_export.layouts.transformers_js import files
from effsam_export.models.sam.components import SAM_PREPROCESS
from effsam_export.parity.metrics import mask_iou
from effsam_export.pipeline.verify import verify
from tests.layouts import apps
from tests.layouts.shallow import SHALLOW_SAM

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

POINT, BOX = [[60.0, 40.0]], [[30.0, 12.0], [90.0, 70.0]]


@pytest.fixture
def folder(layout_bundle: Callable[[str, str], Path], shallow: None) -> Path:
    return layout_bundle("transformers-js", "fp32")


@pytest.mark.backend
@pytest.mark.parametrize(("points", "labels"), [(POINT, [1]), (BOX, [2, 3])])
def test_the_library_shows_the_masks_of_effsam_run(
    folder: Path, picture: NDArray[np.uint8], points: list[list[float]], labels: list[int]
) -> None:
    shown, scores = apps.transformers_js(folder, picture, [points], [labels])
    with effsam_export.load(folder) as predictor:
        predictor.set_image(picture)
        if labels == [1]:
            prediction = predictor.predict(np.asarray(points), np.asarray(labels))
        else:
            prediction = predictor.predict(box=np.asarray(points).reshape(4))
    assert shown.shape == (1, 3, *picture.shape[:2])
    assert np.allclose(scores[0], prediction.scores, atol=1e-5)
    assert min(map(mask_iou, shown[0], prediction.masks)) >= 0.999


@pytest.mark.backend
def test_graphs_have_the_inputs_and_outputs_of_the_library(folder: Path) -> None:
    encoder = apps.open_graph(folder / "onnx/vision_encoder.onnx")
    assert [i.name for i in encoder.get_inputs()] == ["pixel_values"]
    assert {o.name for o in encoder.get_outputs()} == {
        "image_embeddings",
        "image_positional_embeddings",
    }
    decoder = apps.open_graph(folder / "onnx/prompt_encoder_mask_decoder.onnx")
    inputs = {i.name: (i.type, len(i.shape)) for i in decoder.get_inputs()}
    assert inputs == {
        "input_points": ("tensor(float)", 4),
        "input_labels": ("tensor(int64)", 3),
        "image_embeddings": ("tensor(float)", 4),
        "image_positional_embeddings": ("tensor(float)", 4),
    }
    assert {o.name for o in decoder.get_outputs()} == {"iou_scores", "pred_masks"}


@pytest.mark.backend
def test_several_prompts_and_missing_points(folder: Path, picture: NDArray[np.uint8]) -> None:
    one, one_scores = apps.transformers_js(folder, picture, [POINT], [[1]])
    box, box_scores = apps.transformers_js(folder, picture, [BOX], [[2, 3]])
    padded = [*POINT, [5.0, 5.0]]
    both, scores = apps.transformers_js(folder, picture, [padded, BOX], [[1, -10], [2, 3]])
    assert np.allclose(scores, np.concatenate([one_scores, box_scores]), atol=1e-4)
    for got, want in ((both[0], one[0]), (both[1], box[0])):
        assert min(map(mask_iou, got, want)) >= 0.999
    # The point with the label -10 would change the masks as a point.
    as_point, _ = apps.transformers_js(folder, picture, [padded], [[1, 1]])
    assert min(map(mask_iou, as_point[0], one[0])) < 0.99


@pytest.mark.backend
def test_all_masks_of_an_image(folder: Path, picture: NDArray[np.uint8]) -> None:
    from effsam_export.inference.automatic_masks import GridSettings

    settings = GridSettings(points_per_side=2, score=-100, stability=0)
    with effsam_export.load(folder) as predictor:
        predictor.set_image(picture)
        assert predictor.generate(settings)
        batch = predictor.predict_batch(
            np.asarray([[[60, 40]], [[20, 20]]]), np.asarray([[1], [1]])
        )
        alone = predictor.predict(np.asarray([[20, 20]]), np.asarray([1]))
    assert np.allclose(batch.scores[1], alone.scores, atol=1e-4)


@pytest.mark.backend
def test_verify_holds_the_bundle_to_its_layout(folder: Path) -> None:
    result = verify(folder, level="golden")
    assert result.failures == ()
    assert len(result.golden) == 2


def test_configuration_chooses_the_precision_of_each_device() -> None:
    def chosen(*precisions: str) -> list[str]:
        config = json.loads(files(SHALLOW_SAM, precisions)["config.json"])  # type: ignore[arg-type]
        assert config["model_type"] == "sam"
        dtypes = config["transformers.js_config"]
        devices = dtypes["device_config"]
        return [dtypes["dtype"], devices["wasm"]["dtype"], devices["webgpu"]["dtype"]]

    assert chosen("fp32") == ["fp32", "fp32", "fp32"]
    assert chosen("int8") == ["q8", "q8", "q8"]
    assert chosen("fp16", "fp32", "int8") == ["fp32", "q8", "fp16"]


def test_the_image_processor_has_sams_numbers() -> None:
    config = json.loads(files(SHALLOW_SAM, ("fp32",))["preprocessor_config.json"])
    assert np.allclose(np.asarray(config["image_mean"]) * 255, SAM_PREPROCESS.pixel_mean)
    assert np.allclose(np.asarray(config["image_std"]) * 255, SAM_PREPROCESS.pixel_std)
    assert config["image_processor_type"] == "SamImageProcessor"
    assert (config["size"], config["resample"]) == ({"longest_edge": 1024}, 2)


@pytest.mark.parametrize(
    ("size", "want"),
    [((1200, 1800), (682, 1024)), ((1800, 1200), (1024, 682)), ((77, 121), (651, 1024))],
)
def test_sides_are_rounded_down(size: tuple[int, int], want: tuple[int, int]) -> None:
    from dataclasses import replace

    preprocess = replace(SAM_PREPROCESS, family="longest-side-floor")
    assert frame_of(size, preprocess).resized == want
