"""The self-test of generated Python for bundles that find instances: it passes, and it fails."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from effsam_export.bundle import attest, read
from effsam_export.bundle import contract as written
from effsam_export.inference import runner
from effsam_export.integrate import rules
from effsam_export.integrate.fingerprint import fingerprint
from tests.bundle.fake import manifest_of
from tests.integrate import broken
from tests.integrate.test_instances import given, prompts_on
from tests.integrate.test_python import selftest
from tests.integrate.tools import (
    changed,
    expect_no_instances,
    generate,
    golden_of,
    import_file,
    pixels,
    spoil,
)
from tests.tiny_instances import TINY_INSTANCES

if TYPE_CHECKING:
    from collections.abc import Callable

    Ask = Callable[..., tuple[int, str]]

pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.backend


# ------------------------------------------------------------------ the self-test passes


def test_golden_vectors_in_onnx_runtime(
    instance_code: Path, instance_bundle: Path, tmp_path: Path
) -> None:
    """With nothing to import but numpy and the runtime."""
    report_file = tmp_path / "report.json"
    done = selftest(instance_code, instance_bundle, "--json", str(report_file))
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    names = [c["name"] for c in golden_of(instance_bundle)["cases"]]
    assert names == ["point", "points", "box", "top", "corner", "near"]
    assert [line.split(":")[0] for line in lines[:-1]] == names
    assert lines[-1] == "PASSED"
    report = json.loads(report_file.read_text())
    assert report["contract"] == fingerprint(manifest_of(instance_bundle))
    assert [c["name"] for c in report["cases"]] == names
    assert min(c["mask_iou"] for c in report["cases"]) >= 0.999
    assert report["passed"] is True
    found = attest.attest(instance_bundle, report_file)
    assert found.min_iou == min(c["mask_iou"] for c in report["cases"])
    assert (found.language, found.runtime) == ("python", "onnxruntime")


@pytest.mark.parametrize(
    ("target", "runtime"),
    [
        ("openvino", "openvino"),
        pytest.param("tflite", "ai_edge_litert", marks=pytest.mark.slow),
    ],
)
def test_golden_vectors_in_another_runtime(
    request: pytest.FixtureRequest,
    known_instances: None,
    tmp_path: Path,
    target: str,
    runtime: str,
) -> None:
    made: Path = request.getfixturevalue(f"exported_instances_{target}")
    bundle = Path(shutil.copytree(made, tmp_path / "bundle"))
    folder = generate(manifest_of(bundle), "python", tmp_path / "code")
    report_file = tmp_path / "report.json"
    done = selftest(folder, bundle, "--json", str(report_file), runtime=runtime)
    assert done.stdout.endswith("PASSED\n"), done.stdout + done.stderr
    assert done.returncode == 0
    # And the same masks as the runner's, in that runtime.
    opened = read.read(bundle)
    image = pixels((333, 217))
    wanted = runner.find_instances(opened.model, read.open_session(opened, "segmenter"), image)
    library = import_file(folder / "segmenter.py")
    segmenter = library.Segmenter(bundle)
    found = segmenter.find(image)
    assert len(found) > 30
    assert np.array_equal(found.boxes, wanted.boxes)
    for prompt in prompts_on(333, 217):
        answer = segmenter.predict(found, *given(prompt))
        reference = runner.select_instance(opened.model, wanted, prompt)
        assert np.array_equal(answer.masks, reference.masks)
        assert np.array_equal(answer.scores, reference.scores)
    assert attest.attest(bundle, report_file).min_iou >= 0.999


# ------------------------------------------------------------------ it fails


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Run a self-test in this process: its exit code, and what it said."""

    def answer(folder: Path, bundle: Path, *more: str) -> tuple[int, str]:
        monkeypatch.setitem(sys.modules, "segmenter", import_file(folder / "segmenter.py"))
        main = import_file(folder / "selftest.py").main
        monkeypatch.setattr(sys, "argv", ["selftest.py", str(bundle), *more])
        return int(main()), capsys.readouterr().out

    return answer


def test_the_bundle_as_it_is(instance_code: Path, instance_bundle: Path, ask: Ask) -> None:
    """What is asked in this process is what a process of its own is asked."""
    status, said = ask(instance_code, instance_bundle)
    assert status == 0
    assert said.endswith("PASSED\n")
    done = selftest(instance_code, instance_bundle)
    assert [s.split(",")[0] for s in done.stdout.splitlines()] == [
        s.split(",")[0] for s in said.splitlines()
    ]


@pytest.mark.parametrize(("path", "value"), broken.INSTANCE_FIELDS)
def test_a_manifest_of_another_contract(
    instance_code: Path,
    instance_bundle: Path,
    ask: Ask,
    path: str,
    value: Any,  # noqa: ANN401
) -> None:
    broken.change_field(instance_bundle, path, value)
    status, said = ask(instance_code, instance_bundle)
    assert status == 1
    assert "the manifest's contract differs" in said
    assert said.endswith("FAILED\n")


def test_an_instance_that_is_not_compared(
    instance_code: Path, instance_bundle: Path, ask: Ask
) -> None:
    broken.leave_out_instance(instance_bundle)
    status, said = ask(instance_code, instance_bundle)
    assert status == 0, said
    assert "; 1 of 1 masks not compared" in said.splitlines()[0]


@pytest.mark.parametrize("way", broken.INSTANCE_WAYS)
def test_a_broken_bundle(
    instance_code: Path,
    instance_bundle: Path,
    tmp_path: Path,
    ask: Ask,
    way: str,
) -> None:
    apply, wanted = broken.INSTANCE_WAYS[way]
    apply(instance_bundle)
    status, said = ask(instance_code, instance_bundle, "--json", str(tmp_path / "report.json"))
    assert status == 1, said
    assert wanted in said
    assert said.endswith("FAILED\n")
    assert json.loads((tmp_path / "report.json").read_text())["passed"] is False


def test_a_process_that_fails(instance_code: Path, instance_bundle: Path) -> None:
    broken.change_field(instance_bundle, "masks.instances.confidence", 0.5)
    done = selftest(instance_code, instance_bundle)
    assert done.returncode == 1
    assert done.stdout.endswith("FAILED\n")


@pytest.mark.parametrize("output", ["scores", "mask_coefficients", "boxes", "prototypes"])
def test_not_a_number(instance_bundle: Path, tmp_path: Path, ask: Ask, output: str) -> None:
    """What is no number gives no mask, and no masks are expected here."""
    spoil(instance_bundle / "segmenter.onnx", output)
    expect_no_instances(instance_bundle)
    folder = generate(manifest_of(instance_bundle), "python", tmp_path / "code")
    status, said = ask(folder, instance_bundle)
    assert status == 1
    assert "point: mask IoU nan, score error nan, NaN or infinity" in said


def with_numbers(**numbers: float) -> dict[str, Any]:
    """Other numbers, and the sentences that have to be about them."""
    found = {**written.masks(TINY_INSTANCES)["instances"], **numbers}
    return {"masks.instances": found, "masks.resize": rules.instance_masks(found)}


NOTICED: dict[str, dict[str, Any]] = {
    "the threshold": {"masks.threshold": 3.0},
    "the padding": {"preprocess.pad.value": [0.0, 0.0, 0.0]},
    "the confidence": with_numbers(confidence=0.5),
    "the suppression": with_numbers(nms_iou=0.5),
    "the most": with_numbers(max_instances=10),
    "the border": with_numbers(border=0),
    "the whole": with_numbers(whole_iou=0.5),
    "the stride": {"masks.instances.stride": 16},
    "a label that is refused": {
        "prompts.labels.background": None,
        "prompts.supports.negative_points": False,
    },
    "a box that is refused": {"prompts.supports.box": False},
}
"""Changes of a contract, each still one that code is written for."""


@pytest.mark.parametrize("change", NOTICED)
def test_vectors_notice_code_for_another_contract(
    instance_bundle: Path,
    tmp_path: Path,
    ask: Ask,
    change: str,
) -> None:
    """The fingerprint is made to agree: what fails here are the golden vectors alone."""
    manifest = manifest_of(instance_bundle)
    other = manifest
    for path, value in NOTICED[change].items():
        other = changed(other, path, value)
    folder = generate(other, "python", tmp_path / "code")
    for file in folder.iterdir():
        file.write_text(file.read_text().replace(fingerprint(other), fingerprint(manifest)))
    status, said = ask(folder, instance_bundle)
    assert status == 1, said
    assert "contract" not in said
    assert said.endswith("FAILED\n")
