"""The generated JavaScript in node: the reference's numbers, and golden vectors in WebAssembly."""

from __future__ import annotations

import json
import shutil
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from effsam_export import models
from effsam_export.bundle import attest
from effsam_export.imaging.images import encoder_image, frame_of, prompt_to_model, upscale_masks
from effsam_export.integrate.fingerprint import fingerprint
from effsam_export.spec.prompts import Point, Prompt, Sample
from tests.bundle.fake import manifest_of
from tests.integrate import broken
from tests.integrate.node import Answer, Loop, selftests
from tests.integrate.tools import (
    KINDS,
    SIZES,
    SMALL_OWN_FRAME,
    SMALL_SQUASHED,
    become,
    expect_nothing,
    generate,
    lines_of,
    logits,
    manifest_for,
    pixels,
    run,
    spoil,
)
from tests.small import SMALL_SAM

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from effsam_export.spec.model import ModelSpec

# Reads bytes from a file, writes Float32 values to another.
ANSWER = """
import { readFileSync, writeFileSync } from "node:fs";
import * as code from "./segmenter.mjs";
export function answer(ask) {
  const size = { width: ask.width, height: ask.height };
  let values;
  if (ask.what === "preprocess") {
    values = code.preprocess({ ...size, data: new Uint8Array(readFileSync("in.bin")) });
  } else if (ask.what === "upscale") {
    const bytes = readFileSync("in.bin");
    values = code.upscale(new Float32Array(new Uint8Array(bytes).buffer), size);
  } else if (ask.what === "rgbOf") {
    const data = new Uint8ClampedArray(readFileSync("in.bin"));
    values = Float32Array.from(code.rgbOf({ ...size, data }).data);
  } else {
    const found = code.promptTensors(size, ask.prompt);
    values = Float32Array.of(...found.coords, ...found.labels, ...found.hasMask);
  }
  writeFileSync("out.bin", new Uint8Array(values.buffer));
}
"""


class Driver(Loop):
    """Functions of the generated library, called in node."""

    def call(self, what: str, size: tuple[int, int], data: bytes = b"", **more: Any) -> Any:  # noqa: ANN401
        (self.folder / "in.bin").write_bytes(data)
        self.ask({"what": what, "height": size[0], "width": size[1], **more})
        return np.fromfile(self.folder / "out.bin", np.float32)


@pytest.fixture(scope="module", params=["pad", "own-frame", "rectangle", "squash", "slots", "fill"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(kind: str) -> ModelSpec:
    return KINDS[kind]


@pytest.fixture(scope="module")
def driver(
    node: str, kind: str, model: ModelSpec, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Driver]:
    folder = generate(manifest_for(model), "js", tmp_path_factory.mktemp(kind))
    driver = Driver(node, folder, ANSWER)
    yield driver
    driver.close()


@pytest.mark.parametrize("size", [s for s in SIZES if s[0] <= 2 * s[1]], ids=str)
def test_an_image_is_preprocessed(driver: Driver, model: ModelSpec, size: tuple[int, int]) -> None:
    image = pixels(size)
    found = driver.call("preprocess", size, image.tobytes())
    assert np.array_equal(found, encoder_image(image, model.preprocess).ravel())


def test_a_tall_image(driver: Driver, model: ModelSpec) -> None:
    """Pillow before 13 takes the axes in the other order: each may round by 1."""
    image = pixels((2049, 5))
    found = driver.call("preprocess", (2049, 5), image.tobytes())
    assert np.abs(found - encoder_image(image, model.preprocess).ravel()).max() <= 1


@pytest.mark.parametrize("size", [(80, 120), (1, 1), (333, 217), (1024, 7)], ids=str)
def test_logits_come_back(driver: Driver, model: ModelSpec, size: tuple[int, int]) -> None:
    low_res = logits(model)
    found = driver.call("upscale", size, low_res.tobytes())
    wanted = upscale_masks(low_res, frame_of(size, model.preprocess), model.masks).ravel()
    if model.masks.upscale == "bicubic":
        # Node's numbers are doubles, and the reference's floats.
        assert np.allclose(found, wanted, rtol=0, atol=2e-5)
    else:
        assert np.array_equal(found, wanted)


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
    points = [[p.x, p.y, p.label] for p in prompt.points]
    found = driver.call("prompt", size, prompt={"points": points, "box": prompt.box})
    assert found.tolist() == wanted


@pytest.mark.parametrize(
    "prompt",
    [
        {"points": []},
        {"points": [[120, 0, 1]]},
        {"points": [[1, 1, 2]]},
        {"points": [[None, 1, None]]},
        {"box": [9, 5, 5, 9]},
        {"box": [130, 0, 140, 9]},
        {"points": [[1, 1, 1]], "maskInput": [0.0]},
    ],
    ids=str,
)
def test_a_prompt_that_is_refused(driver: Driver, prompt: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"point|label|box|mask"):
        driver.call("prompt", (80, 120), prompt=prompt)


def test_pixels_of_a_canvas(driver: Driver) -> None:
    rgba = np.dstack([pixels((4, 3)), np.full((4, 3), 255, np.uint8)])
    found = driver.call("rgbOf", (4, 3), rgba.tobytes())
    assert np.array_equal(found.reshape(4, 3, 3), pixels((4, 3)))


# ------------------------------------------------------------------ the self-test


def selftest(node: str, folder: Path, bundle: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run([node, "selftest.mjs", str(bundle), *more], folder)


@pytest.fixture
def code(bundle: Path, node_modules: Path, tmp_path: Path) -> Path:
    folder = generate(manifest_of(bundle), "js", tmp_path / "code")
    (folder / "node_modules").symlink_to(node_modules)
    return folder


@pytest.mark.backend
def test_golden_vectors(node: str, code: Path, bundle: Path, tmp_path: Path) -> None:
    done = selftest(node, code, bundle, "--json", str(tmp_path / "report.json"))
    lines = lines_of(done)
    assert done.returncode == 0, done.stdout
    assert [line.split(":")[0] for line in lines[:-1]] == ["point", "both", "again"]
    assert lines[-1] == "PASSED"
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["contract"] == fingerprint(manifest_of(bundle))
    assert (report["language"], report["runtime"]) == ("js", "onnxruntime-web")
    assert report["version"]
    assert report["device"].startswith("wasm, ")
    assert min(c["mask_iou"] for c in report["cases"]) >= 0.999
    assert max(c["score_error"] for c in report["cases"]) <= 0.001
    assert report["passed"] is True
    # `attest` compares the masks in the report again.
    found = attest.attest(bundle, tmp_path / "report.json")
    assert found.min_iou == min(c["mask_iou"] for c in report["cases"])
    assert found.device == report["device"]


CONTRACTS = {"squash": SMALL_SQUASHED, "own-frame": SMALL_OWN_FRAME}


@pytest.fixture(scope="module")
def answers(
    node: str, node_modules: Path, exported_onnx: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Answer]:
    """Outputs of the self-test in one process, by what was changed in the bundle."""
    work = tmp_path_factory.mktemp("many")
    questions: dict[str, tuple[Path, Path]] = {}

    def code_for(bundle: Path) -> Path:
        folder = generate(manifest_of(bundle), "js", work / f"code{len(questions)}")
        (folder / "node_modules").symlink_to(node_modules)
        return folder

    def ask(name: str, apply: Callable[[Path], object], folder: Path | None = None) -> None:
        bundle = work / f"bundle{len(questions)}"
        shutil.copytree(exported_onnx, bundle)
        apply(bundle)
        questions[name] = (folder or code_for(bundle), bundle)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, SMALL_SAM.name, ("tests.small", "SMALL_SAM"))
        for kind, model in CONTRACTS.items():
            ask(kind, partial(become, model=model))
    code = code_for(exported_onnx)
    for path, value in broken.FIELDS:
        ask(path, partial(broken.change_field, path=path, value=value), code)
    for way, (apply, _) in broken.WAYS.items():
        ask(way, apply, code)
    ask("left out", broken.leave_out, code)
    ask("nothing", lambda _: None, code)
    return selftests(node, questions, work)


@pytest.mark.backend
@pytest.mark.parametrize("kind", CONTRACTS)
def test_golden_vectors_of_other_contracts(answers: dict[str, Answer], kind: str) -> None:
    assert answers[kind].status == 0, answers[kind].said
    assert answers[kind].said.endswith("\nPASSED")


@pytest.mark.backend
def test_failures_leave_nothing_behind(answers: dict[str, Answer]) -> None:
    """The bundle as it is, after all that fail in the same process."""
    assert answers["nothing"].status == 0, answers["nothing"].said
    assert answers["nothing"].said.endswith("\nPASSED")


@pytest.mark.backend
def test_masks_that_are_not_compared(answers: dict[str, Answer]) -> None:
    assert answers["left out"].status == 0
    broken.check_left_out(answers["left out"].said)


@pytest.mark.backend
@pytest.mark.parametrize("path", [path for path, _ in broken.FIELDS])
def test_a_manifest_of_another_contract(answers: dict[str, Answer], path: str) -> None:
    status, said = answers[path]
    assert status == 1
    assert "the manifest's contract differs" in said
    assert said.endswith("FAILED")


@pytest.mark.backend
@pytest.mark.parametrize("way", broken.WAYS)
def test_a_broken_bundle(answers: dict[str, Answer], way: str) -> None:
    status, said = answers[way]
    assert status == 1, said
    assert broken.WAYS[way][1] in said
    assert said.endswith("FAILED")


@pytest.mark.backend
def test_not_a_number(node: str, node_modules: Path, bundle: Path, tmp_path: Path) -> None:
    spoil(bundle / "decoder.onnx")
    expect_nothing(bundle)
    folder = generate(manifest_of(bundle), "js", tmp_path / "spoilt")
    (folder / "node_modules").symlink_to(node_modules)
    done = selftest(node, folder, bundle, "--json", str(tmp_path / "report.json"))
    assert done.returncode == 1
    assert "point: mask IoU NaN, score error NaN, NaN or infinity" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    first = report["cases"][0]
    assert (first["name"], first["mask_iou"], first["score_error"]) == ("point", None, None)


@pytest.mark.backend
def test_without_the_runtime(node: str, code: Path, bundle: Path) -> None:
    (code / "node_modules").unlink()
    done = selftest(node, code, bundle)
    assert done.returncode == 1
    assert "onnxruntime-web" in done.stdout
    assert done.stdout.endswith("FAILED\n")


def test_how_it_is_called(node: str, tmp_path: Path) -> None:
    folder = generate(manifest_for(KINDS["pad"]), "js", tmp_path / "code")
    assert run([node, "selftest.mjs"], folder).returncode == 2
    assert run([node, "selftest.mjs", "x", "--json"], folder).returncode == 2
