"""The generated Python on real bundles, with nothing but numpy and the runtime to import."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from effsam_export.bundle import attest
from effsam_export.integrate import rules
from effsam_export.integrate.fingerprint import fingerprint
from tests.bundle.fake import manifest_of
from tests.integrate import broken
from tests.integrate.tools import (
    SMALL_OWN_FRAME,
    SMALL_SQUASHED,
    become,
    changed,
    expect_nothing,
    generate,
    import_file,
    lines_of,
    pixels,
    run,
    save,
    spoil,
)

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from effsam_export.spec.model import ModelSpec

pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.backend

ONLY = """
import importlib.abc, runpy, sys
allowed = {*sys.stdlib_module_names, *sys.argv[1].split(",")}

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in allowed:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocker())
sys.argv = sys.argv[2:]
sys.path.insert(0, ".")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def selftest(
    folder: Path, bundle: Path, *more: str, runtime: str = "onnxruntime"
) -> subprocess.CompletedProcess[str]:
    allowed = f"numpy,{runtime},segmenter,selftest"
    # -I: not even the folder that the tests run in.
    command = [sys.executable, "-I", "-c", ONLY, allowed, "selftest.py", str(bundle), *more]
    return run(command, folder)


@pytest.fixture
def code(bundle: Path, tmp_path: Path) -> Path:
    return generate(manifest_of(bundle), "python", tmp_path / "code")


# ------------------------------------------------------------------ it passes


def test_golden_vectors_in_onnx_runtime(code: Path, bundle: Path, tmp_path: Path) -> None:
    done = selftest(code, bundle, "--json", str(tmp_path / "report.json"))
    lines = lines_of(done)
    assert done.returncode == 0, done.stdout
    assert [line.split(":")[0] for line in lines[:-1]] == ["point", "both", "again"]
    assert all(line.endswith(", ok") for line in lines[:-1])
    assert lines[-1] == "PASSED"
    report = json.loads((tmp_path / "report.json").read_text())
    content = (bundle / "manifest.json").read_bytes()
    assert report["manifest_sha256"] == hashlib.sha256(content).hexdigest()
    assert report["contract"] == fingerprint(manifest_of(bundle))
    assert (report["language"], report["runtime"]) == ("python", "onnxruntime")
    assert report["version"]
    assert "CPUExecutionProvider" in report["device"]
    assert [c["name"] for c in report["cases"]] == ["point", "both", "again"]
    assert min(c["mask_iou"] for c in report["cases"]) >= 0.999
    assert max(c["score_error"] for c in report["cases"]) <= 0.001
    assert report["passed"] is True
    # `attest` compares the masks in the report again.
    found = attest.attest(bundle, tmp_path / "report.json")
    assert found.min_iou == min(c["mask_iou"] for c in report["cases"])
    assert found.device == report["device"]


def test_golden_vectors_in_openvino(openvino_bundle: Path, tmp_path: Path) -> None:
    folder = generate(manifest_of(openvino_bundle), "python", tmp_path / "code")
    done = selftest(folder, openvino_bundle, runtime="openvino")
    assert done.stdout.endswith("PASSED\n"), done.stdout + done.stderr
    assert done.returncode == 0


def test_golden_vectors_in_litert(tflite_bundle: Path, tmp_path: Path) -> None:
    """A decoder of fixed shapes: what has no point is an empty slot."""
    folder = generate(manifest_of(tflite_bundle), "python", tmp_path / "code")
    assert "EMPTY_LABEL = -2" in (folder / "segmenter.py").read_text()
    done = selftest(folder, tflite_bundle, runtime="ai_edge_litert")
    assert done.stdout.endswith("PASSED\n"), done.stdout + done.stderr


@pytest.mark.parametrize("model", [SMALL_SQUASHED, SMALL_OWN_FRAME], ids=["squash", "own-frame"])
def test_golden_vectors_of_other_contracts(bundle: Path, tmp_path: Path, model: ModelSpec) -> None:
    become(bundle, model)
    folder = generate(manifest_of(bundle), "python", tmp_path / "code")
    done = selftest(folder, bundle)
    assert done.stdout.endswith("PASSED\n"), done.stdout + done.stderr


def test_the_library_answers_as_effsam_run(code: Path, bundle: Path) -> None:
    from effsam_export.bundle import read
    from effsam_export.inference import runner
    from effsam_export.spec.prompts import Point, Prompt

    library = import_file(code / "segmenter.py")
    segmenter = library.Segmenter(bundle)
    image = pixels((333, 217))
    embedded = segmenter.embed(image)
    opened = read.read(bundle)
    wanted_embedded = runner.embed(opened.model, read.open_session(opened, "encoder"), image)
    decoder = read.open_session(opened, "decoder")
    for single in (False, True):
        prompt = Prompt(points=(Point(x=100, y=40.5),), box=(10, 20, 200, 300))
        wanted = runner.predict(opened.model, decoder, wanted_embedded, prompt, single_mask=single)
        answer = segmenter.predict(
            embedded, [(100, 40.5, 1)], (10, 20, 200, 300), single_mask=single
        )
        assert answer.indices == wanted.indices
        assert wanted.low_res_masks is not None
        assert np.array_equal(answer.masks, wanted.masks)
        assert np.array_equal(answer.scores, wanted.scores)
        assert np.array_equal(answer.low_res_masks, wanted.low_res_masks)
        again = segmenter.predict(embedded, [(1, 1, 0)], mask_input=answer.low_res_masks[0])
        assert again.masks.shape == (3, 333, 217)


# ------------------------------------------------------------------ it fails


@pytest.mark.parametrize(("path", "value"), broken.FIELDS)
def test_a_manifest_of_another_contract(
    code: Path,
    bundle: Path,
    path: str,
    value: Any,  # noqa: ANN401
) -> None:
    broken.change_field(bundle, path, value)
    done = selftest(code, bundle)
    assert done.returncode == 1
    assert "the manifest's contract differs" in done.stdout
    assert done.stdout.endswith("FAILED\n")


def test_masks_that_are_not_compared(code: Path, bundle: Path) -> None:
    broken.leave_out(bundle)
    broken.check_left_out(selftest(code, bundle).stdout)


@pytest.mark.parametrize("way", broken.WAYS)
def test_a_broken_bundle(code: Path, bundle: Path, tmp_path: Path, way: str) -> None:
    apply, said = broken.WAYS[way]
    apply(bundle)
    done = selftest(code, bundle, "--json", str(tmp_path / "report.json"))
    assert done.returncode == 1, done.stdout
    assert said in done.stdout
    assert done.stdout.endswith("FAILED\n")
    assert json.loads((tmp_path / "report.json").read_text())["passed"] is False


def test_not_a_number(bundle: Path, tmp_path: Path) -> None:
    """NaN is greater than no threshold: its masks are empty, and so are the expected ones here."""
    spoil(bundle / "decoder.onnx")
    expect_nothing(bundle)
    folder = generate(manifest_of(bundle), "python", tmp_path / "code")
    done = selftest(folder, bundle, "--json", str(tmp_path / "report.json"))
    assert done.returncode == 1
    assert "point: mask IoU nan, score error nan, NaN or infinity" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    first = report["cases"][0]
    assert (first["name"], first["mask_iou"], first["score_error"]) == ("point", None, None)


OTHER_FRAME = {
    "prompts.coordinates.size": 512,
    "prompts.coordinates.frame": rules.frame(rules.LONGEST_SIDE, 256, 512),
    "masks.resize": rules.through_frame(512),
}
SQUASH = {
    "preprocess.family": rules.SQUASH,
    "preprocess.resize": {
        "longest_side": None,
        "rounding": rules.ROUNDING[rules.SQUASH],
        "filter": rules.FILTER[rules.SQUASH],
    },
    "preprocess.pad": None,
    "prompts.coordinates.frame": rules.frame(rules.SQUASH, 256, 256),
}
NOTICED: dict[str, dict[str, Any]] = {
    "the threshold": {"masks.threshold": 0.5},
    "the padding": {"preprocess.pad.value": [0.0, 0.0, 0.0]},
    "the corners' labels": {
        "prompts.labels.box_top_left": 3,
        "prompts.labels.box_bottom_right": 2,
    },
    "the padding point's label": {"prompts.labels.padding": 1, "prompts.padding.label": 1},
    "the choice": {"masks.multimask": [0, 1, 2]},
    "no single mask": {"masks.single": []},
    "another single mask": {"masks.single": [1]},
    "the frame": OTHER_FRAME,
    "the resize": SQUASH,
    "the way back": {"masks.resize": rules.BICUBIC},
    "a label that is refused": {
        "prompts.labels.background": None,
        "prompts.supports.negative_points": False,
    },
    "a box that is refused": {"prompts.supports.box": False},
}
"""Changes of a contract, each still one that code is written for."""


@pytest.mark.parametrize("change", NOTICED)
def test_vectors_notice_code_for_another_contract(
    bundle: Path, tmp_path: Path, change: str
) -> None:
    """The fingerprint is made to agree: what fails here are the golden vectors alone."""
    manifest = manifest_of(bundle)
    other = manifest
    for path, value in NOTICED[change].items():
        other = changed(other, path, value)
    folder = generate(other, "python", tmp_path / "code")
    for file in folder.iterdir():
        file.write_text(file.read_text().replace(fingerprint(other), fingerprint(manifest)))
    done = selftest(folder, bundle)
    assert done.returncode == 1, done.stdout
    assert "contract" not in done.stdout
    assert done.stdout.endswith("FAILED\n")


def test_changes_that_golden_vectors_cannot_detect(bundle: Path, tmp_path: Path) -> None:
    """Where the padding point lies: the graph replaces its place. The fingerprint is for that."""
    other = changed(manifest_of(bundle), "prompts.padding.coordinates", [5, 5])
    folder = generate(other, "python", tmp_path / "code")
    assert selftest(folder, bundle).returncode == 1
    save(bundle, other)
    assert selftest(folder, bundle).stdout.endswith("PASSED\n")


def test_a_provider_that_is_not_here(bundle: Path, tmp_path: Path) -> None:
    """ONNX Runtime falls back to the CPU, whose masks would be reported for the provider."""
    other = changed(manifest_of(bundle), "target.options.provider", "CUDAExecutionProvider")
    save(bundle, other)
    done = selftest(generate(other, "python", tmp_path / "code"), bundle)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert "ONNX Runtime gives CPUExecutionProvider, want CUDAExecutionProvider" in said
    assert done.stdout.endswith("FAILED\n")


def test_how_it_is_called(code: Path) -> None:
    done = run([sys.executable, "selftest.py"], code)
    assert done.returncode == 2
    assert "usage:" in done.stderr
