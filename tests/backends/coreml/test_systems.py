"""Exports of whole models to Core ML, evaluated without macOS."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("coremltools")
pytest.importorskip("torch")

from effsam_export import models
from effsam_export.bundle import read
from effsam_export.config import targets as profiles
from effsam_export.pipeline import verify
from effsam_export.pipeline.request import ExportRequest
from tests.paths import REPOSITORY
from tests.small import SMALL_SAM
from tests.stages import export

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.parity.results import ParityReport
    from effsam_export.spec.stages import Checkpoint

pytestmark = pytest.mark.backend

# One image: the evaluator takes long for each.
ONE_IMAGE = f"""
[[images]]
file = "{(REPOSITORY / "calibration" / "images" / "chelsea.jpg").as_posix()}"
prompts = [
  {{ name = "eye", points = [[172, 118, 1]] }},
  {{ name = "cat", points = [[120, 40, 1], [260, 180, 1], [420, 180, 0]] }},
  {{ name = "nose", box = [230, 222, 294, 268] }},
  {{ name = "again", points = [[172, 118, 1]], mask_from = "cat" }},
]
"""


@pytest.fixture(scope="module")
def small_bundle(
    tmp_path_factory: pytest.TempPathFactory,
    small_checkpoint: Checkpoint,
    parity_file: Path,
    stage_root: Path,
) -> tuple[Path, ParityReport]:
    """The small model for iPhones, with two functions in its decoder."""
    options = {"deployment_target": "iOS18", "functions": "2"}
    request = ExportRequest(
        model=SMALL_SAM,
        target=profiles.load_target("iphone-ane", "fp16", options),
        checkpoint=small_checkpoint,
        output=tmp_path_factory.mktemp("bundles") / "small",
        parity_file=parity_file,
    )
    return request.output, export(request, stage_root)


def test_small_sam_in_fp16(small_bundle: tuple[Path, ParityReport]) -> None:
    report = small_bundle[1]
    assert report.passed
    assert report.precision == "fp16"
    assert len(report.cases) == 3
    assert min(c.min_iou for c in report.cases) >= 0.99


def test_manifest_lists_every_file_of_the_packages(
    small: None, small_bundle: tuple[Path, ParityReport]
) -> None:
    bundle = read.read(small_bundle[0])
    assert bundle.manifest["components"][1]["files"] == [
        "decoder.mlpackage/Manifest.json",
        "decoder.mlpackage/Data/com.apple.CoreML/model.mlmodel",
        "decoder.mlpackage/Data/com.apple.CoreML/weights/weight.bin",
    ]
    assert read.integrity(bundle) == ()
    artifacts = {e["path"] for e in bundle.manifest["files"] if e["role"] == "artifact"}
    assert artifacts == {f for c in bundle.manifest["components"] for f in c["files"]}


def test_bundle_is_simulated_off_macos(small_bundle: tuple[Path, ParityReport]) -> None:
    manifest = json.loads((small_bundle[0] / "manifest.json").read_text("utf-8"))
    assert (manifest["state"], manifest["simulator"]) == (
        "simulated",
        "an evaluator of the saved ML program",
    )


def test_a_changed_package_fails_verification(
    small: None, small_bundle: tuple[Path, ParityReport], tmp_path: Path
) -> None:
    import shutil

    copy = shutil.copytree(small_bundle[0], tmp_path / "copy")
    weights = copy / "encoder.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert read.integrity(read.read(copy)) == (
        "`encoder.mlpackage/Data/com.apple.CoreML/weights/weight.bin` has another sha256 than the "
        "manifest",
    )


def test_bundle_segments_again(small: None, small_bundle: tuple[Path, ParityReport]) -> None:
    assert verify.verify(small_bundle[0]).passed


def test_no_path_of_this_machine_is_in_a_package(small_bundle: tuple[Path, ParityReport]) -> None:
    for file in small_bundle[0].glob("*.mlpackage/**/*"):
        if file.is_file():
            content = file.read_bytes()
            for trace in (str(small_bundle[0].parent).encode(), b"site-packages", b"/tests/"):
                assert trace not in content, f"{trace!r} in {file.name}"


@pytest.mark.weights
def test_official_mobile_sam_on_an_image(
    official: Checkpoint, tmp_path: Path, stage_root: Path
) -> None:
    parity = tmp_path / "parity.toml"
    parity.write_text(ONE_IMAGE, "utf-8")
    request = ExportRequest(
        model=models.get("mobile-sam"),
        target=profiles.load_target("coreml"),
        checkpoint=official,
        output=tmp_path / "out",
        parity_file=parity,
    )
    report = export(request, stage_root)
    assert report.precision == "fp16"
    assert len(report.cases) == 4
    assert min(c.min_iou for c in report.cases) >= 0.99
    assert all(c.best == c.artifact_best for c in report.cases)
