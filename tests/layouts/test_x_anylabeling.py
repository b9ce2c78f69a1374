"""X-AnyLabeling's own types: its steps around our graphs show our mask."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from effsam_export import layouts, models
from effsam_export.config.targets import load_target
from effsam_export.errors import UsageError
from effsam_export.layouts.x_anylabeling_export import ToSquare, UnpaddedEncoder
from effsam_export.models.image_sizes import resized
from effsam_export.models.sam.components import as_sam
from effsam_export.models.sam.export import ExportEncoder
from effsam_export.parity.metrics import mask_iou
from effsam_export.pipeline.component import trace_parts
from effsam_export.pipeline.verify import verify
from effsam_export.spec.prompts import Point, Prompt, Sample
from tests.layouts import apps
from tests.layouts.marks import MARKS, best_mask
from tests.layouts.shallow import SHALLOW_EDGE, SHALLOW_EFFICIENTVIT, SHALLOW_SAM
from tests.tiny import deterministic

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from effsam_export.spec.model import ModelSpec
    from tests.layouts.marks import LayoutBundle

NAME = "x-anylabeling"
MODELS = {"edge_sam": SHALLOW_EDGE, "efficientvit_sam": SHALLOW_EFFICIENTVIT}
SHOWN = {"edge_sam": apps.edge_sam, "efficientvit_sam": apps.efficientvit_sam}
INPUTS = {
    "edge_sam": ["image_embeddings", "point_coords", "point_labels"],
    "efficientvit_sam": [
        "image_embeddings",
        "point_coords",
        "point_labels",
        "mask_input",
        "has_mask_input",
        "orig_im_size",
    ],
}
OUTPUTS = {
    "edge_sam": ["scores", "masks"],
    "efficientvit_sam": ["masks", "iou_predictions", "low_res_masks"],
}
each = pytest.mark.parametrize("kind", MODELS)


@pytest.fixture
def folder(layout_bundle: LayoutBundle, shallow: None, kind: str) -> Path:
    return layout_bundle(NAME, "fp32", MODELS[kind])


# ------------------------------------------------------------------ bundles


@pytest.mark.slow
@pytest.mark.backend
@pytest.mark.parametrize("name", MARKS)
@each
def test_the_app_shows_the_mask_of_effsam_run(
    folder: Path, picture: NDArray[np.uint8], kind: str, name: str
) -> None:
    shown = SHOWN[kind](folder, picture, MARKS[name])
    assert 0 < shown.sum() < shown.size
    assert mask_iou(shown, best_mask(folder, picture, MARKS[name])) >= 0.995


@pytest.mark.slow
@pytest.mark.backend
@each
def test_the_folder_is_a_custom_model(folder: Path, kind: str) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    assert config["type"] == kind
    assert {"name", "display_name"} <= config.keys()
    assert config["target_size" if kind == "efficientvit_sam" else "target_length"] == 1024
    encoder, decoder = (
        apps.open_graph(folder / config[f"{part}_model_path"]) for part in ("encoder", "decoder")
    )
    (image,) = encoder.get_inputs()
    assert image.type == "tensor(uint8)"
    assert image.shape in (["height", "width", 3], [1, 3, "height", "width"])
    assert [i.name for i in decoder.get_inputs()] == INPUTS[kind]
    assert [o.name for o in decoder.get_outputs()] == OUTPUTS[kind]
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert manifest["target"]["layout"] == NAME
    assert verify(folder, level="golden").failures == ()


@pytest.mark.slow
@pytest.mark.backend
@pytest.mark.parametrize(("precision", "least"), [("fp16", 0.98), ("int8", 0.9)])
@each
def test_other_precisions(
    layout_bundle: LayoutBundle,
    shallow: None,
    picture: NDArray[np.uint8],
    kind: str,
    precision: str,
    least: float,
) -> None:
    """The app shows the mask of FP32, from files that are smaller."""
    fp32, other = (layout_bundle(NAME, p, MODELS[kind]) for p in ("fp32", precision))
    assert verify(other, level="golden").failures == ()
    assert (other / "decoder.onnx").stat().st_size < (fp32 / "decoder.onnx").stat().st_size
    shown = [SHOWN[kind](folder, picture, MARKS["point"]) for folder in (fp32, other)]
    assert mask_iou(*shown) >= least


@pytest.mark.slow
@pytest.mark.backend
def test_the_encoder_takes_images_of_any_size(layout_bundle: LayoutBundle, shallow: None) -> None:
    encoder = apps.open_graph(layout_bundle(NAME, "fp32", SHALLOW_EFFICIENTVIT) / "encoder.onnx")
    for size in ((1, 1), (1501, 2251), (700, 3)):
        image = np.full((*size, 3), 90, dtype=np.uint8)
        (embedding,) = encoder.run(None, {"input_image": image})
        assert embedding.shape == (1, 256, 64, 64)
        assert np.isfinite(embedding).all()


# ------------------------------------------------------------------ what is refused


def test_other_models_are_sent_to_the_other_target() -> None:
    with pytest.raises(UsageError, match="no type of its own for `mobile-sam`") as caught:
        layouts.in_layout(models.get("mobile-sam"), NAME)
    assert caught.value.hint == "give --target anylabeling, whose bundles it takes too"
    with pytest.raises(UsageError, match="SAM's prompts and masks, and `fast-sam-s` has others"):
        layouts.in_layout(models.get("fast-sam-s"), NAME)
    with pytest.raises(UsageError) as caught:
        layouts.in_layout(models.get("efficientvit-sam-l0"), "anylabeling")
    assert caught.value.hint == "give --target x-anylabeling if the app is X-AnyLabeling"


def test_sizes() -> None:
    with pytest.raises(UsageError, match="input of 1024 pixels, and this `edge-sam`"):
        layouts.in_layout(resized(models.get("edge-sam"), 512), NAME)
    smaller = layouts.in_layout(resized(models.get("efficientvit-sam-l0"), 256), NAME)
    assert smaller.preprocess.image_size == 256


def test_layouts_with_the_same_tensors_have_traces_of_their_own() -> None:
    keys = []
    for name in ("anylabeling", NAME):
        laid_out = layouts.in_layout(models.get("efficientvit-sam-xl0"), name)
        keys.append(trace_parts(laid_out.component("decoder"), load_target(name), {}))
    assert keys[0]["tensors"] == keys[1]["tensors"]
    assert keys[0] != keys[1]


# ------------------------------------------------------------------ parts of the graph


@pytest.mark.parametrize("size", [(77, 121), (1200, 700), (512, 300), (5, 900), (1, 1)])
def test_the_graph_resizes_as_pillow_does(size: tuple[int, int]) -> None:
    image = np.random.default_rng(3).integers(0, 256, (*size, 3), dtype=np.uint8)
    scale = 512 / max(size)
    height, width = (max(1, int(side * scale + 0.5)) for side in size)
    want = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    planes, inside = ToSquare(512)(torch.from_numpy(image))
    got = planes[0, :, :height, :width].permute(1, 2, 0).numpy()
    # A value on the border between two whole numbers may be rounded either way.
    assert np.abs(got - want).max() <= 1
    assert (got != want).mean() < 1e-3
    assert inside.sum() == height * width
    assert inside[0, 0, :height, :width].all()


@pytest.mark.parametrize("size", [(651, 1024), (1024, 3), (1024, 1024)])
def test_an_unpadded_image_is_padded_as_the_authors_do(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(4)
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8, generator=generator)
    sam = as_sam(SHALLOW_SAM.build())
    with torch.inference_mode():
        got = UnpaddedEncoder(ExportEncoder(sam))(image)
        want = sam.encode(image.float())
    assert torch.allclose(got, want, atol=1e-4)


PROMPTS = {
    "point": Prompt(points=(Point(x=500, y=400),)),
    "points": Prompt(points=(Point(x=500, y=400), Point(x=90, y=80, label=0))),
    "box": Prompt(box=(200, 100, 700, 600)),
    "both": Prompt(points=(Point(x=500, y=400),), box=(200, 100, 700, 600)),
}


@pytest.mark.parametrize("name", PROMPTS)
@each
def test_the_decoder_adds_the_padding_point_of_the_authors(kind: str, name: str) -> None:
    generator = np.random.default_rng(5)
    sample = Sample(
        image=np.zeros((77, 121, 3), dtype=np.uint8),
        embeddings=generator.standard_normal((1, 256, 64, 64)).astype(np.float32),
        prompt=PROMPTS[name],
    )
    model = layouts.in_layout(MODELS[kind], NAME)
    module, decoder = weighted(MODELS[kind]), model.component("decoder")
    feeds = decoder.feeds(model.preprocess, sample)
    # The app gives no padding point.
    assert -1 not in feeds["point_labels"]
    with torch.inference_mode():
        outputs = decoder.wrap(module)(*(torch.from_numpy(feeds[t.name]) for t in decoder.inputs))
    want = decoder.reference(module, sample)
    for tensor, found in zip(decoder.outputs, outputs, strict=True):
        np.testing.assert_allclose(found.numpy(), want[tensor.name], atol=1e-3, rtol=1e-4)


@each
def test_the_encoder_prepares_the_image_as_the_authors_do(
    kind: str, picture: NDArray[np.uint8]
) -> None:
    model = layouts.in_layout(MODELS[kind], NAME)
    module, encoder = weighted(MODELS[kind]), model.component("encoder")
    sample = Sample(image=picture)
    (image,) = encoder.feeds(model.preprocess, sample).values()
    assert image.dtype == np.uint8
    traced = torch.export.export(
        encoder.wrap(module).eval(),
        tuple(encoder.example().values()),
        dynamic_shapes=(
            {
                axis: torch.export.Dim(size, min=1, max=2000)
                for axis, size in enumerate(encoder.inputs[0].shape)
                if isinstance(size, str)
            },
        ),
    )
    found = traced.module()(torch.from_numpy(image)).detach().numpy()
    want = encoder.reference(module, sample)["image_embeddings"]
    np.testing.assert_allclose(found, want, atol=1e-4)


def weighted(model: ModelSpec) -> nn.Module:
    """A shallow model with weights of its own."""
    module = model.build()
    module.load_state_dict(deterministic(module.state_dict()))
    return module
