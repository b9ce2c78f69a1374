"""The code in a bundle's README: it runs as it stands, and names the languages there are."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from effsam_export import integrate
from effsam_export.bundle import read
from effsam_export.bundle.readme import readme_text
from effsam_export.bundle.readme_code import LANGUAGES, OF_INSTANCES
from tests.bundle.fake import manifest_of
from tests.integrate.tools import run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.backend

SAVE = """
np.savez("answers.npz", **{n: np.array(v) for n, v in globals().items() if n in NAMES})
"""


def answers(bundle: Path) -> dict[str, Any]:
    """The outputs of the README's Python, by name."""
    (code,) = re.findall(r"```python\n(.+?)```", (bundle / "README.md").read_text("utf-8"), re.S)
    names = [t["name"] for c in manifest_of(bundle)["components"] for t in c["outputs"]]
    (bundle / "ask.py").write_text(f"{code}\nNAMES = {names}{SAVE}", "utf-8")
    done = run([sys.executable, "ask.py"], bundle)
    assert done.returncode == 0, done.stderr
    with np.load(bundle / "answers.npz") as saved:
        assert set(saved) == set(names)
        return dict(saved)


def check(bundle: Path) -> None:
    """The README's answers for a black image and a point are those of `effsam run`'s sessions."""
    found, opened = answers(bundle), read.read(bundle)
    feeds: dict[str, Any] = {"image": np.zeros((1, 3, 256, 256), dtype=np.float32)}
    for component in opened.model.components:
        if component.name == "decoder":
            tensors = {t.name: t.shape for t in component.inputs}
            count = tensors["point_coords"][1]
            empty = [] if isinstance(count, str) else [-2] * (count - 2)
            feeds["point_coords"] = np.zeros((1, 2 + len(empty), 2), dtype=np.float32)
            feeds["point_coords"][0, 0] = 500, 375
            feeds["point_labels"] = np.array([[1, -1, *empty]], dtype=np.float32)
            feeds["mask_input"] = np.zeros((1, 1, 64, 64), dtype=np.float32)
            feeds["has_mask_input"] = np.zeros((1,), dtype=np.float32)
        session = read.open_session(opened, component.name)
        outputs = session.run({t.name: feeds[t.name] for t in component.inputs})
        feeds.update(outputs)
        for name, value in outputs.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4)


def test_onnx_runtime(bundle: Path) -> None:
    check(bundle)


def test_openvino(openvino_bundle: Path) -> None:
    check(openvino_bundle)


def test_litert(tflite_bundle: Path) -> None:
    check(tflite_bundle)


def test_languages_are_those_of_effsam_code() -> None:
    assert OF_INSTANCES == integrate.INSTANCES
    known = {name: integrate.load(name).BACKENDS for name in integrate.LANGUAGES}
    assert {
        backend: tuple(name for name in known if backend in known[name]) for backend in LANGUAGES
    } == LANGUAGES


@pytest.mark.parametrize(
    ("target", "supports", "labels", "padding", "sentence"),
    [
        ("onnx", {}, {}, {}, "one point more comes after the others: (0, 0) with label -1."),
        (
            "tflite",
            {"slots": 8, "max_points": 7},
            {"empty": -2},
            {},
            "(0, 0) with label -1. Then fill up to 8 points with (0, 0) and label -2.",
        ),
        (
            "onnx",
            {"max_points": 6},
            {},
            {"coordinates": [-1, -1]},
            "Fill up to 6 points with (-1, -1) with label -1.",
        ),
    ],
)
def test_the_sentence_on_padding(
    exported_onnx: Path,
    target: str,
    supports: dict[str, int],
    labels: dict[str, int],
    padding: dict[str, Any],
    sentence: str,
) -> None:
    manifest = manifest_of(exported_onnx)
    manifest["target"]["backend"] = target
    manifest["prompts"]["supports"].update(supports)
    manifest["prompts"]["labels"].update(labels)
    manifest["prompts"]["padding"].update(padding)
    assert sentence in readme_text(manifest)


@pytest.mark.parametrize(
    ("batch", "axis", "images", "fed"),
    [
        (4, 4, "(4, 3, 256, 256)", "image_embeddings[:1]"),
        ("dynamic", "images", "(1, 3, 256, 256)", "image_embeddings"),
    ],
)
def test_an_encoder_of_several_images(
    exported_onnx: Path, batch: object, axis: object, images: str, fed: str
) -> None:
    manifest = manifest_of(exported_onnx)
    manifest["preprocess"]["batch"] = batch
    manifest["components"][0]["inputs"][0]["shape"][0] = axis
    page = readme_text(manifest)
    assert f"image = np.zeros({images}, dtype=np.float32)" in page
    assert f'"image_embeddings": {fed},' in page


def test_a_core_ml_bundle_says_what_was_not_compiled(exported_onnx: Path) -> None:
    manifest = manifest_of(exported_onnx)
    manifest["target"]["backend"] = "coreml"
    for component in manifest["components"]:
        component["files"] = [f"{component['name']}.mlpackage/Manifest.json"]
    page = readme_text(manifest)
    assert "// Not compiled" in page
    assert 'fileURLWithPath: "encoder.mlpackage"' in page
    assert "`effsam code . --language swift`" in page
    manifest["target"]["options"]["image_input"] = True
    manifest["components"][0]["inputs"][0].update(dtype="uint8", shape=[256, 256, 3])
    assert "`effsam code . --language swift`" in readme_text(manifest)
