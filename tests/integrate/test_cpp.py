"""The generated C++ but for its binding to a runtime, compiled: the reference's numbers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from effsam_export.errors import UsageError
from effsam_export.imaging.images import encoder_image, frame_of, prompt_to_model, upscale_masks
from effsam_export.integrate import cpp
from effsam_export.integrate.contract import contract_of
from effsam_export.spec.prompts import Point, Prompt, Sample
from effsam_export.spec.sizes import sides
from tests.integrate.tools import (
    KINDS,
    SIZES,
    changed,
    generate,
    logits,
    manifest_for,
    pixels,
    run,
)

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.sizes import Size
    from tests.integrate.native import Compiler

# In the place of a runtime, which none of these numbers needs.
NO_GRAPH = """
#include "effsam_graph.hpp"
#include <stdexcept>

namespace effsam {
struct Graph::Opened {};
Graph::Graph(const std::string&, const std::string&) {}
std::map<std::string, Tensor> Graph::run(const Feeds&, const std::vector<std::string>&) {
  throw std::logic_error("there is no runtime");
}
std::string Graph::device_name() const { return ""; }
std::string runtime_version() { return ""; }
}  // namespace effsam
"""

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


@pytest.fixture(scope="module", params=["pad", "rectangle", "squash", "slots", "fill"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(kind: str) -> ModelSpec:
    return KINDS[kind]


@pytest.fixture(scope="module")
def driver(
    compiler: Compiler, kind: str, model: ModelSpec, tmp_path_factory: pytest.TempPathFactory
) -> Driver:
    folder = generate(manifest_for(model, "openvino"), "cpp", tmp_path_factory.mktemp(kind))
    (folder / "driver.cpp").write_text(DRIVER)
    (folder / "effsam_graph.cpp").write_text(NO_GRAPH)
    return Driver(compiler.compile(folder, "driver.cpp", None))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_image_is_preprocessed(driver: Driver, model: ModelSpec, size: tuple[int, int]) -> None:
    image = pixels(size)
    found = driver.ask("preprocess", size, image.tobytes())
    # Pillow before 13 takes the axes of a tall photograph in the other order.
    allowed = 1 if size[0] > 2 * size[1] else 0
    assert np.abs(found - encoder_image(image, model.preprocess).ravel()).max() <= allowed


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_logits_come_back(driver: Driver, model: ModelSpec, size: tuple[int, int]) -> None:
    low_res = logits(model)
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


def test_an_invalid_image_is_refused(driver: Driver) -> None:
    with pytest.raises(ValueError, match="three bytes per pixel"):
        driver.ask("preprocess", (4, 4), bytes(16))


# ------------------------------------------------------------------ the files


@pytest.mark.parametrize("backend", cpp.BACKENDS)
def test_only_the_binding_needs_the_runtime(
    compiler: Compiler, tmp_path: Path, backend: str
) -> None:
    folder = generate(manifest_for(KINDS["slots"], backend), "cpp", tmp_path)
    compiler.check(folder, "effsam_segmenter.cpp", "selftest.cpp")


@pytest.mark.parametrize("backend", cpp.BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_constants_are_the_contract(kind: str, backend: str) -> None:
    contract = contract_of(manifest_for(KINDS[kind], backend))
    files = cpp.files(contract)
    text = files["effsam_segmenter.hpp"] + files["effsam_graph.hpp"]
    found = dict(re.findall(r"^inline const.* ([A-Z_]+)(?:\[\])? =\s+(.*);$", text, re.MULTILINE))
    wanted: dict[str, object] = {
        "CONTRACT": contract.fingerprint,
        "ENCODER_FILE": contract.encoder.file,
        "DECODER_FILE": contract.decoder.file,
        **sized("IMAGE", contract.image_size),
        **sized("PROMPT", contract.prompt_size),
        "FOREGROUND": contract.foreground,
        "BACKGROUND": contract.background,
        "BOX_TOP_LEFT": contract.box_top_left,
        "BOX_BOTTOM_RIGHT": contract.box_bottom_right,
        "PADDING_POINT": contract.padding_point,
        "PADDING_LABEL": contract.padding_label,
        "MAX_POINTS": contract.max_points,
        "TAKES_BOX": contract.takes_box,
        "TAKES_POINTS_WITH_BOX": contract.takes_points_with_box,
        "TAKES_MASK": contract.takes_mask,
        "SINGLE": contract.single,
        "MULTIMASK": contract.multimask,
        **sized("LOW_RES", contract.low_res_size),
        "THRESHOLD": contract.threshold,
        "RUNTIME": {"onnx": "onnxruntime", "tflite": "ai-edge-litert"}.get(backend, backend),
    }
    if contract.pad_value is not None:
        wanted["PAD_VALUE"] = contract.pad_value
    if contract.padding != "closing":
        wanted["ROOM"] = contract.room
    if contract.padding == "slots":
        wanted["EMPTY_LABEL"] = contract.empty
    if backend == "openvino":
        wanted |= {"DEVICE": "CPU", "INFERENCE_PRECISION": "f32"}
    assert {name: value_of(text) for name, text in found.items()} == wanted
    for name in (contract.score, "image_embeddings", "point_coords"):
        assert f'"{name}"' in files["effsam_segmenter.cpp"]


def sized(name: str, size: Size) -> dict[str, int]:
    """The two constants of a size."""
    height, width = sides(size)
    return {f"{name}_HEIGHT": height, f"{name}_WIDTH": width}


def value_of(text: str) -> object:
    """What a constant is in Python."""
    if text.startswith("{"):
        inside = text.strip("{}")
        return tuple(float(v) for v in inside.split(", ")) if inside else ()
    if text.startswith('"'):
        return text.strip('"')
    words = {"true": True, "false": False, "std::nullopt": None}
    return words[text] if text in words else float(text)


def test_the_binding_is_of_the_backend() -> None:
    bindings = {}
    for backend in cpp.BACKENDS:
        files = cpp.files(contract_of(manifest_for(KINDS["slots"], backend)))
        bindings[backend] = files.pop("effsam_graph.cpp")
        for text in files.values():
            assert not re.search(r"#include <(openvino|onnxruntime|litert)", text)
    assert "#include <openvino/openvino.hpp>" in bindings["openvino"]
    assert "#include <onnxruntime_cxx_api.h>" in bindings["onnx"]
    assert "#include <litert/c/litert_compiled_model.h>" in bindings["tflite"]


def test_threads_of_litert() -> None:
    manifest = manifest_for(KINDS["slots"], "tflite")
    manifest["target"]["options"] = {"num_threads": 3, "slots": 6}
    text = cpp.files(contract_of(manifest))["effsam_graph.cpp"]
    assert r'char cpu_options[] = "num_threads = 3\n";' in text


def test_a_provider_that_is_not_the_cpu() -> None:
    contract = contract_of(manifest_for(KINDS["pad"], "onnx"))
    contract = replace(contract, options={"provider": "CUDAExecutionProvider"})
    with pytest.raises(UsageError, match="is for ONNX Runtime's `CUDAExecutionProvider`"):
        cpp.files(contract)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_tensors_that_are_not_float32(dtype: str) -> None:
    manifest = manifest_for(KINDS["pad"], "onnx")
    manifest = changed(manifest, "components.1.inputs.0.dtype", dtype)
    with pytest.raises(UsageError, match=f"decoder tensor image_embeddings is `{dtype}`"):
        contract_of(manifest)
