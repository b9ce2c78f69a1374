"""Whole exports of the small model for targets that change how components are lowered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")
from effsam_export.bundle import read
from effsam_export.config import targets as profiles
from effsam_export.pipeline import run as pipeline
from effsam_export.pipeline import verify
from effsam_export.pipeline.request import ExportRequest
from tests.small import SMALL_SAM

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.stages import Checkpoint

pytestmark = [pytest.mark.backend, pytest.mark.usefixtures("shared_stages")]


def export(
    name: str,
    options: dict[str, str],
    checkpoint: Checkpoint,
    parity_file: Path,
    output: Path,
    components: tuple[str, ...] = (),
) -> read.Bundle:
    """A bundle of the small model in FP16."""
    pipeline.export(
        ExportRequest(
            model=SMALL_SAM,
            target=profiles.load_target(name, "fp16", options),
            checkpoint=checkpoint,
            output=output,
            components=components,
            parity_file=parity_file,
        )
    )
    return read.read(output)


@pytest.mark.slow
def test_both_components_in_one_tflite_file(
    small: None, small_checkpoint: Checkpoint, parity_file: Path, tmp_path: Path
) -> None:
    pytest.importorskip("litert_torch")
    options = {"single_file": "true", "slots": "4"}
    bundle = export("tflite", options, small_checkpoint, parity_file, tmp_path / "out")
    assert bundle.manifest["state"] == "verified"
    assert [c["files"] for c in bundle.manifest["components"]] == [["model.tflite"]] * 2
    assert [p.name for p in bundle.path.glob("*.tflite")] == ["model.tflite"]
    assert bundle.model.prompts.slots == 4
    assert verify.verify(bundle.path, level="golden").passed


def test_a_core_ml_package_with_two_numbers_of_slots(
    small: None, small_checkpoint: Checkpoint, parity_file: Path, tmp_path: Path
) -> None:
    pytest.importorskip("coremltools")
    # As in `tests/backends/coreml/test_systems.py`, so that they share the packages.
    options = {"functions": "2", "deployment_target": "iOS18"}
    bundle = export("iphone-ane", options, small_checkpoint, parity_file, tmp_path / "out")
    (decoder,) = (c for c in bundle.manifest["components"] if c["name"] == "decoder")
    assert {f.split("/")[0] for f in decoder["files"]} == {"decoder.mlpackage"}
    assert bundle.manifest["prompts"]["labels"]["empty"] == -2
    assert bundle.manifest["simulator"] == bundle.simulator
    assert bundle.manifest["state"] == ("simulated" if bundle.simulator else "verified")
    assert verify.verify(bundle.path, level="golden").passed


def test_a_core_ml_encoder_that_takes_pictures(
    small: None, small_checkpoint: Checkpoint, parity_file: Path, tmp_path: Path
) -> None:
    pytest.importorskip("coremltools")
    options = {"image_input": "true"}
    output = tmp_path / "out"
    bundle = export("coreml", options, small_checkpoint, parity_file, output, ("encoder",))
    (image,) = bundle.manifest["components"][0]["inputs"]
    assert (image["dtype"], image["shape"]) == ("uint8", [256, 256, 3])
