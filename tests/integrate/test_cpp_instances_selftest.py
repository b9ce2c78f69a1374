"""Generated C++ for bundles that find instances, on real ones: numbers, and its self-test."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from effsam_export.bundle import attest, read
from effsam_export.inference import runner
from effsam_export.integrate import cpp
from effsam_export.spec.prompts import Point, Prompt
from tests.bundle.fake import manifest_of
from tests.integrate import broken
from tests.integrate.cpp_answers import CODE, DETAILS, answers_of, asked_by, check_mask
from tests.integrate.test_cpp_selftest import FEW, Built, called
from tests.integrate.test_instances import prompts_on
from tests.integrate.tools import expect_no_instances, generate, pixels, run, spoil

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integrate.native import Compiler, Runtime

pytestmark = [pytest.mark.backend, pytest.mark.compiler]

EXPORTED = {
    "openvino": "exported_instances_openvino",
    "onnx": "exported_instances",
    "tflite": "exported_instances_tflite",
}


# ------------------------------------------------------------------ in every runtime


def build(backend: str, request: pytest.FixtureRequest, folder: Path) -> Built:
    compiler: Compiler = request.getfixturevalue("compiler")
    runtime: Runtime = request.getfixturevalue(f"cpp_{backend}")
    bundle: Path = request.getfixturevalue(EXPORTED[backend])
    generate(manifest_of(bundle), "cpp", folder)
    program = compiler.compile(folder, "selftest.cpp", runtime)
    return Built(backend=backend, bundle=bundle, selftest=program)


SLOW = [pytest.param(b, marks=pytest.mark.slow) for b in cpp.BACKENDS if b != "openvino"]
"""Their bindings are those of other bundles, which `test_cpp_selftest.py` builds."""


@pytest.fixture(scope="module", params=["openvino", *SLOW])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(str(request.param), request, tmp_path_factory.mktemp("built"))


@pytest.fixture
def copied(built: Built, tmp_path: Path, known_instances: None) -> Path:
    """A copy of the bundle that a test may break."""
    return Path(shutil.copytree(built.bundle, tmp_path / "bundle"))


def test_golden_vectors(built: Built, copied: Path, tmp_path: Path) -> None:
    done = called(built.selftest, copied, "--json", str(tmp_path / "report.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, last = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "point", "points", "box", "top", "corner", "near"
    ]  # fmt: skip
    assert last == "PASSED"
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["passed"] is True
    assert min(c["mask_iou"] for c in report["cases"]) >= 0.999
    # `attest` compares the masks in the report again.
    found = attest.attest(copied, tmp_path / "report.json")
    assert found.min_iou == min(c["mask_iou"] for c in report["cases"])
    assert (found.language, found.runtime) == ("cpp", cpp.RUNTIMES[built.backend])


def test_the_library_answers_as_effsam_run(
    request: pytest.FixtureRequest, built: Built, compiler: Compiler, known_instances: None
) -> None:
    """To the bit: of these masks numpy's rounding could move one pixel at worst, and moves none."""
    folder, size = built.selftest.parent, (80, 120)
    shutil.copy(CODE / "answers.cpp", folder)
    runtime = request.getfixturevalue(f"cpp_{built.backend}")
    program = compiler.compile(folder, "answers.cpp", runtime)
    image, prompts = pixels(size), prompts_on(*size)
    asked = [word for p in prompts for word in asked_by(p)]
    found = answers_of(program, built.bundle, image, *asked, "everything")
    opened = read.read(built.bundle)
    wanted = runner.find_instances(opened.model, read.open_session(opened, "segmenter"), image)
    assert len(wanted) > 30
    for name in DETAILS:
        assert np.array_equal(getattr(found, name), getattr(wanted, name)), name
    for prompt, mask, score in zip(prompts, found.masks, found.mask_scores, strict=False):
        answer = runner.select_instance(opened.model, wanted, prompt)
        assert np.array_equal(mask, answer.masks[0])
        assert score == answer.scores[0]
    assert found.masks[: len(prompts)].any(axis=(1, 2)).sum() >= 4
    full = [i for i in range(len(wanted)) if wanted.mask(i).any()]
    assert found.mask_scores[len(prompts) :].tolist() == wanted.scores[full].tolist()
    for index, mask in zip(full, found.masks[len(prompts) :], strict=True):
        check_mask(mask, wanted, index)


def test_the_example(
    request: pytest.FixtureRequest, built: Built, compiler: Compiler, known_instances: None
) -> None:
    folder, image = built.selftest.parent, pixels((80, 120))
    runtime = request.getfixturevalue(f"cpp_{built.backend}")
    program = compiler.compile(folder, "example.cpp", runtime, quick=True)
    (folder / "in.ppm").write_bytes(b"P6\n120 80\n255\n" + image.tobytes())
    done = run([str(program), str(built.bundle), "in.ppm", "60", "40", "out.pgm"], folder)
    assert done.returncode == 0, done.stderr
    opened = read.read(built.bundle)
    found = runner.find_instances(opened.model, read.open_session(opened, "segmenter"), image)
    answer = runner.select_instance(opened.model, found, Prompt(points=(Point(x=60, y=40),)))
    mask = (answer.masks[0] * np.uint8(255)).tobytes()
    assert (folder / "out.pgm").read_bytes() == b"P5\n120 80\n255\n" + mask


@pytest.mark.parametrize("way", FEW)
def test_a_few_broken_bundles(built: Built, copied: Path, way: str) -> None:
    check_failed(built, copied, *broken.INSTANCE_WAYS[way])


def check_failed(built: Built, bundle: Path, apply: Callable[[Path], None], said: str) -> None:
    apply(bundle)
    done = called(built.selftest, bundle)
    assert done.returncode == 1, done.stdout
    assert said in done.stdout
    assert done.stdout.endswith("FAILED\n")


# ------------------------------------------------------------------ in OpenVINO


@pytest.fixture(scope="module")
def openvino(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """On which everything is tried; what was compiled above is only linked."""
    return build("openvino", request, tmp_path_factory.mktemp("openvino"))


@pytest.fixture
def bundle(openvino: Built, tmp_path: Path) -> Path:
    return Path(shutil.copytree(openvino.bundle, tmp_path / "bundle"))


@pytest.mark.parametrize(("path", "value"), broken.INSTANCE_FIELDS)
def test_a_manifest_of_another_contract(
    openvino: Built,
    bundle: Path,
    path: str,
    value: Any,  # noqa: ANN401
) -> None:
    said = "the manifest's contract differs"
    check_failed(openvino, bundle, lambda b: broken.change_field(b, path, value), said)


def test_an_instance_that_is_not_compared(openvino: Built, bundle: Path) -> None:
    broken.leave_out_instance(bundle)
    done = called(openvino.selftest, bundle)
    assert done.returncode == 0, done.stdout
    assert "; 1 of 1 masks not compared" in done.stdout.splitlines()[0]


@pytest.mark.parametrize("way", [w for w in broken.INSTANCE_WAYS if w not in FEW])
def test_a_broken_bundle(openvino: Built, bundle: Path, way: str) -> None:
    check_failed(openvino, bundle, *broken.INSTANCE_WAYS[way])


@pytest.mark.parametrize("output", ["scores", "mask_coefficients", "boxes", "prototypes"])
def test_not_a_number(openvino: Built, bundle: Path, output: str) -> None:
    """What is no number gives no mask, and no masks are expected here."""
    package = pytest.importorskip("openvino")
    spoil(bundle / "source" / "segmenter.onnx", output)
    graph = package.convert_model(bundle / "source" / "segmenter.onnx")
    package.save_model(graph, bundle / "segmenter.xml", compress_to_fp16=False)
    check_failed(openvino, bundle, expect_no_instances, "point: NaN or infinity")
