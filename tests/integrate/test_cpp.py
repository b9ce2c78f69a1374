"""The generated C++, compiled: the reference's numbers, and golden vectors in OpenVINO."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from effsam_export.bundle import attest
from effsam_export.images import encoder_image, frame_of, prompt_to_model, upscale_masks
from effsam_export.integrate.fingerprint import fingerprint
from effsam_export.spec import Point, Prompt, Sample
from tests.bundle.fake import manifest_of
from tests.integrate import broken
from tests.integrate.tools import (
    KINDS,
    SIZES,
    SQUASHED,
    become,
    changed,
    expect_nothing,
    generate,
    lines_of,
    logits,
    manifest_for,
    pixels,
    run,
    save,
    spoil,
)

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from effsam_export.spec import ModelSpec

    Compile = Callable[[Path, str], Path]

pytest.importorskip("openvino")

pytestmark = pytest.mark.backend

# What is asked for in the arguments, bytes in `in.bin`, float32 values to `out.bin`.
DRIVER = r"""
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include "effsam_segmenter.hpp"

int main(int argc, char** argv) {
  const std::string what = argv[1];
  const effsam::Size size{std::stoi(argv[2]), std::stoi(argv[3])};
  std::ifstream in("in.bin", std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(in)), {});
  std::vector<float> out;
  try {
    if (what == "preprocess") {
      out = effsam::preprocess({size, {bytes.begin(), bytes.end()}});
    } else if (what == "upscale") {
      std::vector<float> logits(bytes.size() / 4);
      std::memcpy(logits.data(), bytes.data(), bytes.size());
      out = effsam::upscale(logits, size);
    } else {  // points as x y label, after a box and a mask that there are where they are not "-"
      effsam::Prompt prompt;
      int at = 4;
      if (std::string(argv[at]) != "-") {
        prompt.box = {{std::stod(argv[at]), std::stod(argv[at + 1]), std::stod(argv[at + 2]),
                       std::stod(argv[at + 3])}};
        at += 3;
      }
      for (at += 1; at + 2 < argc; at += 3) {
        prompt.points.push_back(
            {std::stod(argv[at]), std::stod(argv[at + 1]), std::stoi(argv[at + 2])});
      }
      const effsam::PromptTensors found = effsam::prompt_tensors(size, prompt);
      out = found.coords;
      out.insert(out.end(), found.labels.begin(), found.labels.end());
      out.push_back(found.has_mask);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s", error.what());
    return 1;
  }
  std::ofstream("out.bin", std::ios::binary)
      .write(reinterpret_cast<const char*>(out.data()), out.size() * 4);
}
"""


class Driver:
    """Functions of the generated library, called in a program."""

    def __init__(self, program: Path) -> None:
        self.program = program

    def ask(self, what: str, size: tuple[int, int], data: bytes = b"", *more: object) -> Any:  # noqa: ANN401
        folder = self.program.parent
        (folder / "in.bin").write_bytes(data)
        done = run([str(self.program), what, *map(str, size), *map(str, more)], folder)
        if done.returncode:
            raise ValueError(done.stderr)
        return np.fromfile(folder / "out.bin", np.float32)


# ------------------------------------------------------------------ numbers


@pytest.fixture(scope="module", params=["pad", "squash", "slots", "fill"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(kind: str) -> ModelSpec:
    return KINDS[kind]


@pytest.fixture(scope="module")
def driver(
    compile_cpp: Compile, kind: str, model: ModelSpec, tmp_path_factory: pytest.TempPathFactory
) -> Driver:
    folder = generate(manifest_for(model, "openvino"), "cpp", tmp_path_factory.mktemp(kind))
    (folder / "driver.cpp").write_text(DRIVER)
    return Driver(compile_cpp(folder, "driver.cpp"))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_photograph(driver: Driver, model: ModelSpec, size: tuple[int, int]) -> None:
    image = pixels(size)
    found = driver.ask("preprocess", size, image.tobytes())
    # Pillow before 13 takes the axes of a tall photograph in the other order.
    allowed = 1 if size[0] > 2 * size[1] else 0
    assert np.abs(found - encoder_image(image, model.preprocess).ravel()).max() <= allowed


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_logits_come_back(driver: Driver, model: ModelSpec, size: tuple[int, int]) -> None:
    low_res = logits()
    found = driver.ask("upscale", size, low_res.tobytes())
    wanted = upscale_masks(low_res, frame_of(size, model.preprocess), model.masks)
    assert np.array_equal(found, wanted.ravel())


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(points=(Point(x=3.5, y=7),)),
        Prompt(box=(10, 12.5, 90, 60)),
        Prompt(points=(Point(x=20, y=20),), box=(1 / 3, 10, 90, 60)),
    ],
    ids=["point", "box", "both"],
)
def test_a_prompt(driver: Driver, model: ModelSpec, prompt: Prompt) -> None:
    size = (80, 120)
    moved = prompt_to_model(prompt, frame_of(size, model.preprocess))
    sample = Sample(image=pixels(size), embeddings=np.zeros(0, np.float32), prompt=moved)
    feeds = model.component("decoder").feeds(model.preprocess, sample)
    wanted = [*feeds["point_coords"].ravel(), *feeds["point_labels"].ravel(), 0.0]
    points = [n for p in prompt.points for n in (p.x, p.y, p.label)]
    found = driver.ask("prompt", size, b"", *(prompt.box or ("-",)), *points)
    assert found.tolist() == wanted


@pytest.mark.parametrize(
    "arguments",
    [
        ["-"],
        ["-", 120, 0, 1],
        ["-", "nan", 0, 1],
        ["-", 1, 1, 2],
        [9, 5, 5, 9],
        ["nan", 5, 15, 9],
        [130, 0, 140, 9],
        ["-", *[1, 1, 1] * 8, 1, 1, -1],
    ],
    ids=str,
)
def test_a_prompt_that_is_refused(driver: Driver, arguments: list[object]) -> None:
    with pytest.raises(ValueError, match=r"point|label|box"):
        driver.ask("prompt", (80, 120), b"", *arguments)


def test_what_is_no_photograph(driver: Driver) -> None:
    with pytest.raises(ValueError, match="three bytes a pixel"):
        driver.ask("preprocess", (4, 4), bytes(16))


# ------------------------------------------------------------------ the self-test


@pytest.fixture(scope="module")
def selftest(
    compile_cpp: Compile, exported_openvino: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Compiled once: a bundle that is changed afterwards is what it has to notice."""
    folder = tmp_path_factory.mktemp("selftest")
    generate(manifest_of(exported_openvino), "cpp", folder)
    return compile_cpp(folder, "selftest.cpp")


def called(program: Path, bundle: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run([str(program), str(bundle), *more], program.parent)


def test_golden_vectors(selftest: Path, openvino_bundle: Path, tmp_path: Path) -> None:
    done = called(selftest, openvino_bundle, "--json", str(tmp_path / "report.json"))
    lines = lines_of(done)
    assert done.returncode == 0, done.stdout
    assert [line.split(":")[0] for line in lines[:-1]] == ["point", "both", "again"]
    assert lines[-1] == "PASSED"
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["contract"] == fingerprint(manifest_of(openvino_bundle))
    assert (report["language"], report["runtime"]) == ("cpp", "openvino")
    assert report["version"]
    assert report["device"]
    assert min(c["mask_iou"] for c in report["cases"]) >= 0.999
    assert max(c["score_error"] for c in report["cases"]) <= 0.001
    assert report["passed"] is True
    # Judged again by the masks that it found.
    found = attest.attest(openvino_bundle, tmp_path / "report.json")
    assert found.least_iou == min(c["mask_iou"] for c in report["cases"])
    assert found.device == report["device"]


@pytest.mark.parametrize(("path", "value"), broken.FIELDS)
def test_a_manifest_of_another_contract(
    selftest: Path,
    openvino_bundle: Path,
    path: str,
    value: Any,  # noqa: ANN401
) -> None:
    broken.change_field(openvino_bundle, path, value)
    done = called(selftest, openvino_bundle)
    assert done.returncode == 1
    assert "the manifest has another contract" in done.stdout
    assert done.stdout.endswith("FAILED\n")


@pytest.mark.parametrize("way", broken.WAYS)
def test_a_broken_bundle(selftest: Path, openvino_bundle: Path, way: str) -> None:
    apply, said = broken.WAYS[way]
    apply(openvino_bundle)
    done = called(selftest, openvino_bundle)
    assert done.returncode == 1, done.stdout
    assert said.replace("mask IoU", "the mask IoU") in done.stdout
    assert done.stdout.endswith("FAILED\n")


def test_golden_vectors_of_a_squashed_photograph(
    compile_cpp: Compile, openvino_bundle: Path, tmp_path: Path
) -> None:
    become(openvino_bundle, SQUASHED)
    folder = generate(manifest_of(openvino_bundle), "cpp", tmp_path / "code")
    done = called(compile_cpp(folder, "selftest.cpp"), openvino_bundle)
    assert done.stdout.endswith("PASSED\n"), done.stdout


def test_not_a_number(compile_cpp: Compile, openvino_bundle: Path, tmp_path: Path) -> None:
    """OpenVINO opens ONNX files too: the source of the decoder, its logits made NaN."""
    spoil(openvino_bundle / "source" / "decoder.onnx")
    manifest = manifest_of(openvino_bundle)
    save(openvino_bundle, changed(manifest, "components.1.files", ["source/decoder.onnx"]))
    expect_nothing(openvino_bundle)
    folder = generate(manifest_of(openvino_bundle), "cpp", tmp_path / "code")
    program = compile_cpp(folder, "selftest.cpp")
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


def test_cmake(openvino_bundle: Path, tmp_path: Path) -> None:
    import openvino

    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is not installed")
    config = Path(openvino.__path__[0]) / "cmake"
    if not config.is_dir():
        pytest.skip("this openvino package has no CMake files")
    folder = generate(manifest_of(openvino_bundle), "cpp", tmp_path / "code")
    for command in (
        ["-S", ".", "-B", "build", f"-DOpenVINO_DIR={config}"],
        ["--build", "build"],
    ):
        done = run([cmake, *command], folder)
        assert done.returncode == 0, done.stdout + done.stderr
    assert called(folder / "build" / "selftest", openvino_bundle).stdout.endswith("PASSED\n")
