"""AnyLabeling, X-AnyLabeling and rembg: their own steps around our graphs show our mask."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import yaml
from torch.nn.functional import interpolate

from effsam_export.errors import UsageError
from effsam_export.imaging import corner
from effsam_export.integrate.write import code_for
from effsam_export.layouts import anylabeling
from effsam_export.layouts.anylabeling_export import ToOriginal, selected
from effsam_export.parity.metrics import mask_iou
from effsam_export.pipeline.verify import verify
from tests.layouts import apps
from tests.layouts.marks import MARKS, best_mask

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture
def folder(layout_bundle: Callable[[str, str], Path], shallow: None) -> Path:
    return layout_bundle("anylabeling", "fp32")


@pytest.mark.backend
@pytest.mark.parametrize("name", MARKS)
def test_the_app_shows_the_mask_of_effsam_run(
    folder: Path, picture: NDArray[np.uint8], name: str
) -> None:
    shown = apps.anylabeling(folder, picture, MARKS[name])
    assert 0 < shown.sum() < shown.size
    assert mask_iou(shown, best_mask(folder, picture, MARKS[name])) >= 0.999


@pytest.mark.backend
def test_graphs_have_the_inputs_and_outputs_of_the_app(folder: Path) -> None:
    encoder = apps.open_graph(folder / "encoder.onnx")
    assert [(i.shape, i.type) for i in encoder.get_inputs()] == [([684, 1024, 3], "tensor(float)")]
    assert encoder.get_outputs()[0].shape == [1, 256, 64, 64]
    decoder = apps.open_graph(folder / "decoder.onnx")
    assert [i.name for i in decoder.get_inputs()] == [
        "image_embeddings",
        "point_coords",
        "point_labels",
        "mask_input",
        "has_mask_input",
        "orig_im_size",
    ]
    assert {i.type for i in decoder.get_inputs()} == {"tensor(float)"}
    assert [o.name for o in decoder.get_outputs()] == ["masks", "iou_predictions", "low_res_masks"]


@pytest.mark.backend
def test_the_web_demo_gets_a_mask_in_the_size_of_a_photograph(folder: Path) -> None:
    decoder = apps.open_graph(folder / "decoder.onnx")
    rng = np.random.default_rng(0)
    for size in ((1501, 2251), (300, 200)):
        masks, _, low_res = decoder.run(
            None,
            {
                "image_embeddings": rng.standard_normal((1, 256, 64, 64)).astype(np.float32),
                "point_coords": np.asarray([[[500, 375], [0, 0]]], dtype=np.float32),
                "point_labels": np.asarray([[1, -1]], dtype=np.float32),
                "mask_input": np.zeros((1, 1, 256, 256), dtype=np.float32),
                "has_mask_input": np.zeros(1, dtype=np.float32),
                "orig_im_size": np.asarray(size, dtype=np.float32),
            },
        )
        assert masks.shape == (1, 1, *size)
        assert low_res.shape == (1, 1, 256, 256)


@pytest.mark.backend
def test_the_folder_is_a_custom_model(folder: Path) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    assert config["type"] == "segment_anything"
    assert {"name", "display_name"} <= config.keys()
    assert (config["input_size"], config["max_width"], config["max_height"]) == (1024, 1024, 682)
    for key in ("encoder_model_path", "decoder_model_path"):
        assert (folder / config[key]).is_file()
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert manifest["target"]["layout"] == "anylabeling"
    assert (folder / manifest["model"]["licence"]["file"]).is_file()
    roles = {e["path"]: e["role"] for e in manifest["files"]}
    assert roles["config.yaml"] == "artifact"
    assert "config.yaml" in (folder / "README.md").read_text("utf-8")


@pytest.mark.backend
def test_verify_holds_the_bundle_to_its_layout(folder: Path) -> None:
    result = verify(folder, level="golden")
    assert result.failures == ()
    assert [r.case for r in result.golden] == ["point", "both"]


@pytest.mark.backend
def test_no_code_is_generated(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is for AnyLabeling, which needs no code"):
        code_for(folder, "python", tmp_path / "code")


# ------------------------------------------------------------------ parts of the graph


@pytest.mark.parametrize("size", [(684, 1024), (1501, 2251), (2251, 1501), (3, 1), (1024, 1024)])
def test_masks_are_resized_as_segment_anything_does(size: tuple[int, int]) -> None:
    low_res = torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(1))
    scale = 1024 / max(size)
    height, width = (int(side * scale + 0.5) for side in size)
    full = interpolate(low_res, size=(1024, 1024), mode="bilinear", align_corners=False)
    want = interpolate(full[..., :height, :width], size=size, mode="bilinear", align_corners=False)
    got = ToOriginal()(low_res, torch.tensor(size, dtype=torch.float32))
    assert torch.allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("points", [1, 2, 3, 4, 900])
def test_one_mask_is_selected_as_segment_anything_does(points: int) -> None:
    scores = torch.tensor([[0.9, 0.2, 0.8, 0.7]])
    reweighted = scores + (points - 2.5) * torch.tensor([[1000, 0, 0, 0]])
    want = int(torch.argmax(reweighted, dim=1))
    assert want == (2 if points <= 2 else 0)
    assert selected(scores, torch.ones(1, points)).tolist() == [want]


def test_the_reference_adds_the_padding_point_to_a_box() -> None:
    from effsam_export.spec.prompts import Point, Prompt

    with_box = anylabeling._padded(Prompt(box=(1, 2, 3, 4)))
    assert with_box.points == (Point(x=0, y=0, label=-1),)
    assert anylabeling._padded(Prompt(points=(Point(x=1, y=2),))).points == (Point(x=1, y=2),)


@pytest.mark.parametrize("size", [(77, 121), (1200, 700), (684, 1024), (1, 5)])
def test_images_are_scaled_from_their_top_left_pixel(size: tuple[int, int]) -> None:
    image = np.random.default_rng(2).integers(0, 256, (*size, 3), dtype=np.uint8)
    scale = min(1024 / size[1], 684 / size[0])
    want = np.rint(apps.warp_affine(image, scale, (684, 1024)))
    got = corner.fitted(image, (684, 1024))
    # A value on the border between two whole numbers may be rounded either way.
    assert np.abs(got - want).max() <= 1
    assert (got != want).mean() < 1e-3
