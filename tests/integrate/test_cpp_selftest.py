"""The generated C++ on real bundles: golden vectors in OpenVINO, ONNX Runtime and LiteRT."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from effsam_export.bundle import attest, read
from effsam_export.inference import runner
from effsam_export.integrate import cpp
from effsam_export.integrate.fingerprint import fingerprint
from effsam_export.spec.prompts import Point, Prompt
from tests.bundle.fake import manifest_of
from tests.integrate import broken
from tests.integrate.tools import (
    SMALL_SQUASHED,
    become,
    changed,
    expect_nothing,
    generate,
    pixels,
    run,
    save,
    spoil,
)

if TYPE_CHECKING:
    import subprocess

    from tests.integrate.native import Compiler, Runtime

pytestmark = pytest.mark.backend

EXPORTED = {"openvino": "exported_openvino", "onnx": "exported_onnx", "tflite": "exported_tflite"}
FEW = ("a mask", "a graph", "no cases")
"""Ways to break a bundle that are tried in every runtime: the self-test itself is the same."""

# A bundle, and a photograph in `in.bin`; logits and scores of all masks to `out.bin`.
ANSWER = r"""
#include <fstream>
#include <iterator>
#include "effsam_segmenter.hpp"

int main(int, char** argv) {
  std::ifstream in("in.bin", std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(in)), {});
  effsam::Segmenter segmenter(argv[1]);
  const effsam::Size size{std::stoi(argv[2]), std::stoi(argv[3])};
  const effsam::Embedded embedded = segmenter.embed({size, {bytes.begin(), bytes.end()}});
  effsam::Prompt prompt;
  prompt.points = {{100, 40.5, effsam::FOREGROUND}};
  prompt.box = {{10, 20, 200, 300}};
  const effsam::Answer answer = segmenter.predict(embedded, prompt);
  std::ofstream out("out.bin", std::ios::binary);
  const auto write = [&out](const std::vector<float>& values) {
    out.write(reinterpret_cast<const char*>(values.data()), values.size() * 4);
  };
  write(embedded.embeddings.values);
  for (const std::vector<float>& logits : answer.low_res_masks) write(logits);
  write(answer.scores);
  for (const std::vector<std::uint8_t>& mask : answer.masks) write({mask.begin(), mask.end()});
}
"""


@dataclass(frozen=True, kw_only=True)
class Built:
    """A compiled self-test; a bundle that is changed afterwards is what it has to notice."""

    backend: str
    bundle: Path
    selftest: Path


@pytest.fixture(scope="module", params=cpp.BACKENDS)
def built(
    request: pytest.FixtureRequest, compiler: Compiler, tmp_path_factory: pytest.TempPathFactory
) -> Built:
    backend = str(request.param)
    runtime: Runtime = request.getfixturevalue(f"cpp_{backend}")
    bundle: Path = request.getfixturevalue(EXPORTED[backend])
    folder = generate(manifest_of(bundle), "cpp", tmp_path_factory.mktemp(backend))
    return Built(
        backend=backend,
        bundle=bundle,
        selftest=compiler.compile(folder, "selftest.cpp", runtime),
    )


@pytest.fixture
def copied(built: Built, tmp_path: Path, small: None) -> Path:
    """A copy of the bundle that a test may break."""
    return Path(shutil.copytree(built.bundle, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def selftest(
    compiler: Compiler,
    cpp_openvino: Runtime,
    exported_openvino: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """That of OpenVINO, on which everything is tried."""
    folder = generate(manifest_of(exported_openvino), "cpp", tmp_path_factory.mktemp("selftest"))
    return compiler.compile(folder, "selftest.cpp", cpp_openvino)


def called(program: Path, bundle: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run([str(program), str(bundle), *more], program.parent)


# ------------------------------------------------------------------ in every runtime


def test_golden_vectors(built: Built, copied: Path, tmp_path: Path) -> None:
    done = called(built.selftest, copied, "--json", str(tmp_path / "report.json"))
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    # Of XNNPACK's line there is no way to be rid.
    assert not [w for w in done.stderr.splitlines() if not w.startswith("INFO: Created")]
    assert [line.split(":")[0] for line in lines[:-1]] == ["point", "both", "again"]
    assert lines[-1] == "PASSED"
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["contract"] == fingerprint(manifest_of(copied))
    assert (report["language"], report["runtime"]) == ("cpp", cpp.RUNTIMES[built.backend])
    assert report["version"]
    assert report["device"]
    assert min(c["mask_iou"] for c in report["cases"]) >= 0.999
    assert max(c["score_error"] for c in report["cases"]) <= 0.001
    assert report["passed"] is True
    # `attest` compares the masks in the report again.
    found = attest.attest(copied, tmp_path / "report.json")
    assert found.min_iou == min(c["mask_iou"] for c in report["cases"])
    assert found.device == report["device"]


def test_the_library_answers_as_effsam_run(
    request: pytest.FixtureRequest, built: Built, compiler: Compiler, small: None
) -> None:
    """Embeddings, logits, scores and masks, to the bit."""
    folder = built.selftest.parent
    (folder / "answer.cpp").write_text(ANSWER)
    program = compiler.compile(
        folder, "answer.cpp", request.getfixturevalue(f"cpp_{built.backend}")
    )
    image = pixels((333, 217))
    (folder / "in.bin").write_bytes(image.tobytes())
    done = run([str(program), str(built.bundle), "333", "217"], folder)
    assert done.returncode == 0, done.stderr
    opened = read.read(built.bundle)
    embedded = runner.embed(opened.model, read.open_session(opened, "encoder"), image)
    decoder = read.open_session(opened, "decoder")
    prompt = Prompt(points=(Point(x=100, y=40.5),), box=(10, 20, 200, 300))
    wanted = runner.predict(opened.model, decoder, embedded, prompt)
    assert wanted.low_res_masks is not None
    parts = [embedded.sample.embeddings, wanted.low_res_masks, wanted.scores, wanted.masks]
    found = np.fromfile(folder / "out.bin", np.float32)
    assert np.array_equal(found, np.concatenate([np.float32(p).ravel() for p in parts]))


def test_one_changed_field(built: Built, copied: Path) -> None:
    broken.change_field(copied, *broken.FIELDS[0])
    done = called(built.selftest, copied)
    assert done.returncode == 1
    assert "the manifest's contract differs" in done.stdout
    assert done.stdout.endswith("FAILED\n")


@pytest.mark.parametrize("way", FEW)
def test_a_few_broken_bundles(built: Built, copied: Path, way: str) -> None:
    apply, said = broken.WAYS[way]
    apply(copied)
    done = called(built.selftest, copied)
    assert done.returncode == 1, done.stdout
    assert said.replace("mask IoU", "the mask IoU") in done.stdout
    assert done.stdout.endswith("FAILED\n")


def test_a_graph_that_cannot_be_opened(built: Built, copied: Path) -> None:
    """The manifest lists what is there, and the runtime does not take it."""
    component = manifest_of(copied)["components"][1]["files"][0]
    (copied / component).write_bytes(b"no graph")
    save(copied, manifest_of(copied))
    done = called(built.selftest, copied)
    assert done.returncode == 1, done.stdout
    assert done.stdout.endswith("FAILED\n")


# ------------------------------------------------------------------ in OpenVINO


@pytest.mark.parametrize(("path", "value"), broken.FIELDS[1:])
def test_a_manifest_of_another_contract(
    selftest: Path,
    openvino_bundle: Path,
    path: str,
    value: Any,  # noqa: ANN401
) -> None:
    broken.change_field(openvino_bundle, path, value)
    done = called(selftest, openvino_bundle)
    assert done.returncode == 1
    assert "the manifest's contract differs" in done.stdout
    assert done.stdout.endswith("FAILED\n")


def test_masks_that_are_not_compared(selftest: Path, openvino_bundle: Path) -> None:
    broken.leave_out(openvino_bundle)
    broken.check_left_out(called(selftest, openvino_bundle).stdout)


@pytest.mark.parametrize("way", [w for w in broken.WAYS if w not in FEW])
def test_a_broken_bundle(selftest: Path, openvino_bundle: Path, way: str) -> None:
    apply, said = broken.WAYS[way]
    apply(openvino_bundle)
    done = called(selftest, openvino_bundle)
    assert done.returncode == 1, done.stdout
    assert said.replace("mask IoU", "the mask IoU") in done.stdout
    assert done.stdout.endswith("FAILED\n")


def test_golden_vectors_of_a_squashed_image(
    compiler: Compiler, cpp_openvino: Runtime, openvino_bundle: Path, tmp_path: Path
) -> None:
    become(openvino_bundle, SMALL_SQUASHED)
    folder = generate(manifest_of(openvino_bundle), "cpp", tmp_path / "code")
    program = compiler.compile(folder, "selftest.cpp", cpp_openvino, quick=True)
    done = called(program, openvino_bundle)
    assert done.stdout.endswith("PASSED\n"), done.stdout


def test_not_a_number(
    compiler: Compiler, cpp_openvino: Runtime, openvino_bundle: Path, tmp_path: Path
) -> None:
    """OpenVINO opens ONNX files too: the source of the decoder, its logits made NaN."""
    spoil(openvino_bundle / "source" / "decoder.onnx")
    manifest = manifest_of(openvino_bundle)
    save(openvino_bundle, changed(manifest, "components.1.files", ["source/decoder.onnx"]))
    expect_nothing(openvino_bundle)
    folder = generate(manifest_of(openvino_bundle), "cpp", tmp_path / "code")
    program = compiler.compile(folder, "selftest.cpp", cpp_openvino, quick=True)
    done = called(program, openvino_bundle, "--json", str(tmp_path / "report.json"))
    assert done.returncode == 1
    assert "NaN or infinity" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    first = report["cases"][0]
    assert (first["name"], first["mask_iou"], first["score_error"]) == ("point", None, None)


def test_a_manifest_written_in_another_way(selftest: Path, openvino_bundle: Path) -> None:
    """The same values with escapes, exponents and no white space: the same contract."""
    manifest = manifest_of(openvino_bundle)
    text = json.dumps(manifest, separators=(",", ":")).replace('"threshold":0.0', '"threshold":0e5')
    text = text.replace("Pillow's", "\\u0050illow\\u0027s")
    (openvino_bundle / "manifest.json").write_text(text)
    assert called(selftest, openvino_bundle).stdout.endswith("PASSED\n")


def test_how_it_is_called(selftest: Path) -> None:
    assert run([str(selftest)], selftest.parent).returncode == 2
    assert run([str(selftest), "x", "--json"], selftest.parent).returncode == 2


# ------------------------------------------------------------------ with CMake


def test_cmake(request: pytest.FixtureRequest, built: Built, copied: Path, tmp_path: Path) -> None:
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is not installed")
    runtime: Runtime = request.getfixturevalue(f"cpp_{built.backend}")
    places = {
        "openvino": [f"-DOpenVINO_DIR={runtime.include.parent / 'cmake'}"],
        "onnx": [
            f"-DONNXRUNTIME_INCLUDE={runtime.include}",
            f"-DONNXRUNTIME_LIBRARY={runtime.library}",
        ],
        "tflite": [
            f"-DLITERT_INCLUDE={runtime.include}",
            f"-DLITERT_LIBRARY={runtime.library}",
            "-DLITERT_VERSION=2.1.6",
        ],
    }[built.backend]
    if built.backend == "openvino" and not (runtime.include.parent / "cmake").is_dir():
        pytest.skip("this openvino package has no CMake files")
    folder = generate(manifest_of(copied), "cpp", tmp_path / "code")
    # Debug: that it is found and linked is asked here, and takes half as long.
    configured = ["-S", ".", "-B", "build", "-DCMAKE_BUILD_TYPE=Debug", *places]
    for command in (configured, ["--build", "build"]):
        done = run([cmake, *command], folder)
        assert done.returncode == 0, done.stdout + done.stderr
    report = tmp_path / "report.json"
    done = called(folder / "build" / "selftest", copied, "--json", str(report))
    assert done.stdout.endswith("PASSED\n"), done.stdout
    if built.backend == "tflite":
        assert json.loads(report.read_text())["version"] == "2.1.6"
    image = pixels((80, 120))
    (tmp_path / "in.ppm").write_bytes(b"P6\n120 80\n255\n" + image.tobytes())
    asked = [str(copied), "in.ppm", "60", "40", "out.pgm"]
    done = run([str(folder / "build" / "example"), *asked], tmp_path)
    assert done.returncode == 0, done.stderr
    opened = read.read(copied)
    embedded = runner.embed(opened.model, read.open_session(opened, "encoder"), image)
    prompt = Prompt(points=(Point(x=60, y=40),))
    wanted = runner.predict(opened.model, read.open_session(opened, "decoder"), embedded, prompt)
    mask = (tmp_path / "out.pgm").read_bytes()
    assert mask == b"P5\n120 80\n255\n" + (wanted.masks[0] * np.uint8(255)).tobytes()


@pytest.mark.parametrize(
    ("backend", "options"),
    [
        ("openvino", ("-DOpenVINO_DIR=",)),
        ("onnx", ("-DCMAKE_PREFIX_PATH=", "-DONNXRUNTIME_INCLUDE=", "-DONNXRUNTIME_LIBRARY=")),
        ("tflite", ("-DCMAKE_PREFIX_PATH=", "-DLITERT_INCLUDE=", "-DLITERT_LIBRARY=")),
    ],
)
def test_cmake_names_the_option_for_what_it_does_not_find(
    compiler: Compiler, exported_onnx: Path, tmp_path: Path, backend: str, options: tuple[str, ...]
) -> None:
    del compiler  # Its tier.
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is not installed")
    manifest = manifest_of(exported_onnx)
    manifest["target"].update(backend=backend, options={})
    folder = generate(manifest, "cpp", tmp_path / "code")
    done = run([cmake, "-S", ".", "-B", "build"], folder)
    assert done.returncode != 0
    said = " ".join(done.stderr.split())
    assert [option for option in options if option not in said] == []


def test_an_image_that_the_example_cannot_read(
    selftest: Path,
    compiler: Compiler,
    cpp_openvino: Runtime,
    exported_openvino: Path,
    tmp_path: Path,
) -> None:
    program = compiler.compile(selftest.parent, "example.cpp", cpp_openvino)
    (tmp_path / "in.ppm").write_bytes(b"P6\n9 9\n255\n" + bytes(8))
    done = run([str(program), str(exported_openvino), "in.ppm", "1", "1", "out.pgm"], tmp_path)
    assert (done.returncode, done.stderr) == (1, "error: in.ppm ends too early\n")
    assert run([str(program)], tmp_path).returncode == 1
    assert not (tmp_path / "out.pgm").exists()
