"""`verify_engine.py` of a kit, on a fake GPU: it agrees with `effsam verify`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("PIL")

from effsam_export.backends.onnx.session import OnnxSession
from effsam_export.backends.tensorrt.kit import verify_engine
from effsam_export.imaging import rle
from tests.backends.tensorrt import fake_tensorrt
from tests.backends.tensorrt.test_write_kit import read, script

pytestmark = pytest.mark.backend


@pytest.fixture
def device(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny model's bundle with a kit, engines built, on a fake GPU."""
    fake_tensorrt.reset()
    fake_tensorrt.MEMORY.clear()
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt)
    manifest = read(bundle / "manifest.json")
    for component in manifest["components"]:
        name = component["name"]
        plan = json.dumps({"onnx": str(bundle / component["files"][0])})
        (bundle / f"{name}.engine").write_text(plan)
        (bundle / f"{name}.expected_layers.json").write_text('{"precision": "fp16"}')
    monkeypatch.setattr("trt_engine.load_driver", fake_tensorrt.Driver)
    return bundle


def test_golden_vectors_agree_with_effsam_verify(bundle: Path) -> None:
    from effsam_export.pipeline import verify

    manifest = read(bundle / "manifest.json")
    sessions = [
        OnnxSession(bundle / c["files"][0], "CPUExecutionProvider") for c in manifest["components"]
    ]
    found = verify_engine.check(manifest, bundle / "golden" / "golden.json", *sessions)
    wanted = verify.verify(bundle, level="golden").golden
    assert found == [(r.case, r.mask_iou, r.score_error) for r in wanted]
    assert len(found) == 3


@pytest.mark.parametrize("batch", [3, "dynamic"])
def test_engines_for_several_images(bundle: Path, batch: int | str) -> None:
    """The golden image is in every slot, and the answer is that of the first."""
    manifest = read(bundle / "manifest.json")
    encoder, decoder = (
        OnnxSession(bundle / c["files"][0], "CPUExecutionProvider") for c in manifest["components"]
    )

    class Slots:
        """An encoder for several images, of which only the first has an embedding."""

        def run(self, feeds: dict[str, Any]) -> dict[str, Any]:
            image = feeds["image"]
            assert len(image) == (batch if isinstance(batch, int) else 1)
            assert (image == image[:1]).all()
            found = encoder.run({"image": image[:1]})["image_embeddings"]
            return {"image_embeddings": np.concatenate([found, *[0 * found] * (len(image) - 1)])}

    golden = bundle / "golden" / "golden.json"
    wanted = verify_engine.check(manifest, golden, encoder, decoder)
    manifest["preprocess"]["batch"] = batch
    assert verify_engine.check(manifest, golden, Slots(), decoder) == wanted


def test_passed(device: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify_engine.main(["--bundle", str(device)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "encoder: 1 layers by output dtype: 1 float16"
    assert said[2].startswith("point: mask IoU 1.0000, score error ")
    assert said[-1] == (
        "PASSED: 3 prompts, min mask IoU 1.0000, TensorRT 10.3.0, compute capability 87"
    )
    assert fake_tensorrt.MEMORY == {}


def test_other_masks_fail(device: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden = read(device / "golden" / "golden.json")
    case = golden["cases"][0]
    case["masks"] = [rle.encode(~rle.decode(m)) for m in case["masks"]]
    (device / "golden" / "golden.json").write_text(json.dumps(golden))
    assert verify_engine.main(["--bundle", str(device)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert "  point: mask IoU 0.000000, minimum 0.999" in said
    assert said[-1].startswith("FAILED: 3 prompts, min mask IoU 0.0000, ")


def test_other_precision_fails(device: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_tensorrt.SETTINGS["layers"] = "Row major linear FP32"
    assert verify_engine.main(["--bundle", str(device)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert "  decoder: none of 1 layers computes in half precision" in said
    assert said[-1].startswith("FAILED: ")


@pytest.mark.parametrize(
    ("outputs", "precision", "problems"),
    [
        (["float16"], "fp16", []),
        (["float32"], "fp32", []),
        (["float16"], "fp32", ["encoder: 1 layers compute in half precision, first `fused`"]),
        (["float32"], "fp16", ["encoder: none of 1 layers computes in half precision"]),
        (["unknown"], "fp16", ["encoder: the engine inspector lists no dtypes of layers"]),
        ([], "fp32", ["encoder: the engine inspector lists no dtypes of layers"]),
    ],
)
def test_layers_of_an_engine(outputs: list[str], precision: str, problems: list[str]) -> None:
    layers = [{"name": "fused", "outputs": outputs}]
    assert verify_engine.layer_failures("encoder", layers, {"precision": precision}) == problems


@pytest.mark.parametrize(
    ("results", "problems"),
    [
        ([("a", 0.999, 0.001)], []),
        ([("a", 0.5, 0.001)], ["a: mask IoU 0.500000, minimum 0.999"]),
        ([("a", 1.0, 0.5)], ["a: score error 5.00e-01, maximum 0.001"]),
        (
            [("a", float("nan"), float("nan"))],
            ["a: mask IoU nan, minimum 0.999", "a: score error nan, maximum 0.001"],
        ),
        ([], ["there is no golden case"]),
    ],
)
def test_tolerances(results: list[Any], problems: list[str]) -> None:
    tolerances = {"mask_iou": 0.999, "score_error": 0.001}
    assert verify_engine.failures(results, tolerances) == problems


def test_engines_are_not_built(device: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (device / "decoder.engine").unlink()
    assert verify_engine.main(["--bundle", str(device)]) == 2
    assert capsys.readouterr().err == (
        "error: there is no `decoder.engine`: run `python3 kit/build_engine.py` first\n"
    )


def test_bundle_of_a_segmenter(device: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = read(device / "manifest.json")
    manifest["components"] = [{"name": "segmenter"}]
    (device / "manifest.json").write_text(json.dumps(manifest))
    assert verify_engine.main(["--bundle", str(device)]) == 2
    assert capsys.readouterr().err == (
        "error: this script needs golden vectors, an encoder and a decoder, and the bundle has "
        "segmenter; check it with `effsam verify`\n"
    )


def test_engine_of_another_machine(device: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (device / "encoder.engine").write_bytes(b"ftrt")
    assert verify_engine.main(["--bundle", str(device)]) == 3
    assert capsys.readouterr().err.startswith("error: the engine cannot be opened: ")


def test_machine_without_a_gpu(
    device: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trt_engine.load_driver", lambda: fake_tensorrt.Driver(count=0))
    assert verify_engine.main(["--bundle", str(device)]) == 3
    assert capsys.readouterr().err == "error: the driver finds no GPU\n"


def test_script_names_a_missing_package(device: Path) -> None:
    shutil.copytree(Path(verify_engine.__file__).parent, device / "kit")
    (device / "kit" / "tensorrt.py").write_text("raise ImportError('no libnvinfer')\n")
    done = script(device, "verify_engine.py")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "error: no libnvinfer; the requirements are at the top of this file\n"
