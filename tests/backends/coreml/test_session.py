"""Opening packages: image inputs, the runtime, and its inputs."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("coremltools")
pytest.importorskip("torch")
import torch
from PIL import Image

from effsam_export.backends.coreml import backend as coreml
from effsam_export.backends.coreml import package as coreml_package
from effsam_export.backends.coreml import sdk as coreml_sdk
from effsam_export.backends.coreml import session as coreml_session
from effsam_export.backends.coreml.mil import read
from effsam_export.spec.tensors import ReportedTensor
from tests.backends.coreml import tools

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.stages import Artifact
    from tests.graph.passes.tools import Array

pytestmark = pytest.mark.backend


@pytest.fixture(scope="module")
def image_encoder(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """An encoder with an image input."""
    folder = tmp_path_factory.mktemp("picture")
    return tools.lower(tools.encoder_graph(folder), folder / "out", image_input=True)


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A decoder with array inputs."""
    folder = tmp_path_factory.mktemp("points")
    return tools.lower(tools.decoder_graph(folder), folder / "out")


def pixels() -> Array:
    """Return every integer pixel value, and values between them."""
    values = np.arange(288, dtype=np.float32) * 255 / 287
    return values.reshape(1, 3, 8, 12)


def wanted(image: Array) -> Array:
    with torch.inference_mode():
        found: Array = tools.Encoder()(torch.from_numpy(image)).numpy()
    return found


def test_image_input_in_the_description(image_encoder: Artifact) -> None:
    (shown,) = coreml_package.read_spec(
        coreml_package.package_of(image_encoder.files)
    ).description.input
    image = shown.type.imageType
    assert (shown.name, image.width, image.height) == ("image", 12, 8)
    assert image.ColorSpace.Name(image.colorSpace) == "RGB"
    assert shown.shortDescription == "RGB, 0 to 255"


def test_image_input_is_not_scaled(image_encoder: Artifact) -> None:
    """No scale and no bias: normalisation is in the graph."""
    program = read.load(coreml_package.package_of(image_encoder.files))
    assert [f.image for f in program.inputs] == [True]
    whole = np.rint(pixels())
    found = coreml.open_session(image_encoder).run({"image": whole})["image_embeddings"]
    np.testing.assert_allclose(found, wanted(whole), atol=2e-3)


def test_signatures(image_encoder: Artifact, tmp_path: Path) -> None:
    (image,) = coreml.open_session(image_encoder).signature().inputs
    assert image == ReportedTensor(name="image", shape=(8, 12, 3), dtype="uint8")
    arrays = tools.lower(tools.encoder_graph(tmp_path), tmp_path / "out")
    found = coreml.open_session(arrays).signature()
    assert found.inputs == (ReportedTensor(name="image", shape=(1, 3, 8, 12), dtype="float32"),)
    assert [t.name for t in found.outputs] == ["image_embeddings"]
    assert found.outputs[0].dtype == "float32"


def test_pixels_of_an_image_input_are_rounded(image_encoder: Artifact) -> None:
    session = coreml.open_session(image_encoder)
    between, whole = (
        session.run({"image": i})["image_embeddings"] for i in (pixels(), np.rint(pixels()))
    )
    np.testing.assert_array_equal(between, whole)


@pytest.mark.parametrize(
    ("value", "pixel"),
    [(-3.0, 0), (0.4, 0), (0.6, 1), (123.675, 124), (254.6, 255), (300.0, 255)],
)
def test_to_uint8_image(value: float, pixel: int) -> None:
    image = np.full((1, 3, 2, 5), value, dtype=np.float32)
    found = coreml_session.to_uint8_image(image)
    assert found.shape == (2, 5, 3)
    assert found.dtype == np.uint8
    assert np.unique(found).tolist() == [pixel]


def test_channels_stay_in_order() -> None:
    image = np.stack([np.full((4, 4), v, dtype=np.float32) for v in (10, 20, 30)])[None]
    assert coreml_session.to_uint8_image(image)[0, 0].tolist() == [10, 20, 30]


def test_array_input_is_the_default(tmp_path: Path) -> None:
    artifact = tools.lower(tools.encoder_graph(tmp_path), tmp_path / "out")
    (shown,) = coreml_package.read_spec(coreml_package.package_of(artifact.files)).description.input
    assert list(shown.type.multiArrayType.shape) == [1, 3, 8, 12]
    found = coreml.open_session(artifact).run({"image": pixels()})["image_embeddings"]
    np.testing.assert_allclose(found, wanted(pixels()), atol=2e-3)


def test_image_input_changes_no_other_inputs(tmp_path: Path) -> None:
    artifact = tools.lower(tools.decoder_graph(tmp_path), tmp_path / "out", image_input=True)
    shown = coreml_package.read_spec(coreml_package.package_of(artifact.files)).description.input
    assert [f.type.WhichOneof("Type") for f in shown] == ["multiArrayType"] * 2


# ------------------------------------------------------------------ on a Mac, as far as it goes


class FakeModel:
    """A fake of `coremltools.models.MLModel` that records its arguments."""

    made: list[dict[str, Any]]

    def __init__(self, path: str, **settings: object) -> None:
        self.made.append({"path": path, **settings})

    def predict(self, feeds: dict[str, Any]) -> dict[str, Any]:
        self.made[-1]["fed"] = feeds
        return {"iou": np.zeros(1), "masks": np.ones(1), "image_embeddings": np.zeros(2)}


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setattr(FakeModel, "made", [], raising=False)
    ct = coreml_sdk.load()
    fake = SimpleNamespace(
        models=SimpleNamespace(MLModel=FakeModel), ComputeUnit=ct.ComputeUnit, proto=ct.proto
    )
    monkeypatch.setattr(coreml_sdk, "load", lambda: fake)
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    return FakeModel.made


def test_mac_runs_core_ml_with_the_target_compute_units(
    mac: list[dict[str, Any]], image_encoder: Artifact
) -> None:
    artifact = replace(
        image_encoder, options={**image_encoder.options, "compute_units": "CPU_AND_NE"}
    )
    coreml.open_session(artifact).run({"image": np.rint(pixels())})
    (call,) = mac
    assert call["path"] == str(coreml_package.package_of(image_encoder.files))
    assert call["compute_units"].name == "CPU_AND_NE"
    assert call["function_name"] is None
    assert isinstance(call["fed"]["image"], Image.Image)
    assert call["fed"]["image"].size == (12, 8)
    assert call["fed"]["image"].getpixel((3, 0)) == (3, 88, 173)


def test_mac_gets_arrays_and_returns_outputs_in_contract_order(
    mac: list[dict[str, Any]], points: Artifact
) -> None:
    feeds = tools.as_arrays(tools.decoder_feeds(4))
    found = coreml.open_session(points).run(feeds)
    assert list(found) == ["masks", "iou"]
    assert mac[0]["fed"]["point_coords"] is feeds["point_coords"]
