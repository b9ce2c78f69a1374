"""Exports for Android: the small SAM and the official MobileSAM."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("litert_torch")
pytest.importorskip("ai_edge_litert")

from effsam_export import backends, models
from effsam_export.bundle import read
from effsam_export.config import targets as profiles
from effsam_export.models import fixed
from effsam_export.pipeline.request import ExportRequest
from effsam_export.spec.stages import Artifact
from tests import stages
from tests.paths import REPOSITORY
from tests.small import SMALL_SAM

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.parity.results import ParityReport
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.stages import Checkpoint
    from effsam_export.spec.targets import Precision

pytestmark = pytest.mark.backend

ONE_PHOTOGRAPH = f"""
[[images]]
file = "{(REPOSITORY / "calibration" / "images" / "astronaut.jpg").as_posix()}"
prompts = [
  {{ name = "patch", points = [[172, 383, 1]] }},
  {{ name = "helmet", box = [278, 340, 512, 512] }},
  {{ name = "again", points = [[172, 383, 1], [40, 200, 0]], mask_from = "patch" }},
]
"""
# Random weights have masks without an edge: those of some prompts change with any rounding.
PROMPTS = """
[[images]]
file = "{image}"
prompts = [
  {{ name = "point", points = [[60, 40, 1]] }},
  {{ name = "both", points = [[20, 20, 0]], box = [10, 10, 90, 60] }},
  {{ name = "again", points = [[60, 40, 1], [20, 20, 0]], mask_from = "point" }},
]
"""
MIN_IOU = {"fp32": 0.999, "fp16": 0.99}


def export(
    model: ModelSpec,
    checkpoint: Checkpoint,
    output: Path,
    parity_file: Path,
    name: str,
    precision: Precision,
    stage_root: Path,
) -> ParityReport:
    return stages.export(
        ExportRequest(
            model=model,
            target=profiles.load_target(name, precision),
            checkpoint=checkpoint,
            output=output,
            parity_file=parity_file,
        ),
        stage_root,
    )


@pytest.fixture(scope="module")
def small_bundle(
    tmp_path_factory: pytest.TempPathFactory,
    small_checkpoint: Checkpoint,
    photo: Path,
    stage_root: Path,
) -> read.Bundle:
    """The small SAM for Android's GPU.

    Not the tiny one: it misses the gates where XNNPACK sums in FP16, as on a CPU with AVX512-FP16.
    """
    output = tmp_path_factory.mktemp("tflite") / "small"
    parity_file = photo.parent / "tflite.toml"
    parity_file.write_text(PROMPTS.format(image=photo.name), "utf-8")
    export(SMALL_SAM, small_checkpoint, output, parity_file, "android-gpu", "fp16", stage_root)
    return read.read(output)


def test_bundle_is_simulated_and_names_the_simulator(small_bundle: read.Bundle) -> None:
    manifest = small_bundle.manifest
    assert manifest["state"] == "simulated"
    assert "LiteRT on the CPU, computing in FP16" in str(manifest)
    assert read.integrity(small_bundle) == ()


def test_decoder_has_eight_slots_and_four_dimensions(small_bundle: read.Bundle) -> None:
    from effsam_export.backends.tflite import file as tflite_file

    model = tflite_file.read(small_bundle.path / "decoder.tflite")
    spec = fixed.with_slots(SMALL_SAM, 8).component("decoder")
    assert tflite_file.signature_faults(model, "decoder", spec.inputs, spec.outputs) == []
    assert {t.name: t.shape for t in spec.inputs}["point_coords"] == (1, 8, 2)
    ranks = {len(tflite_file.shape_of(t)) for g in model.subgraphs for t in g.tensors}
    assert max(ranks) == 4


def test_values_in_empty_slots_change_nothing(small_bundle: read.Bundle) -> None:
    artifact = Artifact(
        component="decoder",
        backend="tflite",
        precision="fp16",
        files=(small_bundle.path / "decoder.tflite",),
        tensors_by_dtype={},
        ops={},
        versions={},
        options={"num_threads": 1},
    )
    session = backends.load("tflite").open_session(artifact)
    rng = np.random.default_rng(0)
    given = {
        "image_embeddings": rng.standard_normal((1, 256, 16, 16), np.float32),
        "point_coords": np.zeros((1, 8, 2), np.float32),
        "point_labels": np.array([[1, -1, -2, -2, -2, -2, -2, -2]], np.float32),
        "mask_input": np.zeros((1, 1, 64, 64), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
    }
    first = session.run(given)
    given["point_coords"][0, 2:] = 175
    second = session.run(given)
    for name, value in first.items():
        np.testing.assert_allclose(second[name], value, atol=1e-5)
    given["point_labels"][0, 2] = 1
    assert np.abs(session.run(given)["low_res_masks"] - first["low_res_masks"]).max() > 1e-2


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param("android-cpu", "fp32", marks=pytest.mark.weights),
        pytest.param("android-cpu", "fp16", marks=pytest.mark.slow),
        pytest.param("android-gpu", "fp16", marks=pytest.mark.slow),
    ],
)
def test_official_mobile_sam(
    official: Checkpoint, name: str, precision: Precision, tmp_path: Path, stage_root: Path
) -> None:
    parity_file = tmp_path / "parity.toml"
    parity_file.write_text(ONE_PHOTOGRAPH, "utf-8")
    model = models.get("mobile-sam")
    report = export(model, official, tmp_path / "out", parity_file, name, precision, stage_root)
    assert len(report.cases) == 3
    assert min(c.min_iou for c in report.cases) >= MIN_IOU[precision]
    assert report.gates.mask_iou >= MIN_IOU[precision]
