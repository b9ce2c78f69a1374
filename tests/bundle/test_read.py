"""Reading bundles that are broken, by accident or on purpose."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from effsam_export import backends
from effsam_export.bundle import golden, read
from effsam_export.errors import BundleError, EffsamError, ToolchainMissing
from effsam_export.inference.segment import segment
from effsam_export.spec.prompts import Point, Prompt
from tests.bundle import fake

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.backend


def test_an_intact_bundle(bundle: Path) -> None:
    found = read.read(bundle)
    assert found.model.name == "tiny-sam"
    assert found.components == ("encoder", "decoder")
    assert read.integrity(found) == ()


def test_every_file_but_the_manifest_is_listed(bundle: Path) -> None:
    listed = {e["path"] for e in read.read(bundle).manifest["files"]}
    found = {p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()}
    assert found - listed == {"manifest.json"}


def test_one_flipped_bit_is_found(bundle: Path) -> None:
    file = bundle / "decoder.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert read.integrity(read.read(bundle)) == (
        "`decoder.onnx` has another sha256 than the manifest",
    )


def test_missing_short_and_linked_files_are_named_together(bundle: Path, tmp_path: Path) -> None:
    (bundle / "parity.json").unlink()
    (bundle / "report.html").write_text("short")
    (bundle / "README.md").rename(tmp_path / "elsewhere.md")
    (bundle / "README.md").symlink_to(tmp_path / "elsewhere.md")
    problems = read.integrity(read.read(bundle))
    assert "`README.md` is a link" in problems
    assert "`parity.json` is missing" in problems
    assert any(p.startswith("`report.html` has 5 bytes, want") for p in problems)
    assert len(problems) == 3


def test_a_graph_that_is_used_but_not_listed(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"] = [e for e in manifest["files"] if e["path"] != "encoder.onnx"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert read.integrity(read.read(bundle)) == ("`encoder.onnx` is used but not listed",)


@pytest.mark.parametrize(
    ("content", "error"),
    [("{", "cannot be read as JSON"), ("\x80", "cannot be read as"), ("[]", "does not follow")],
)
def test_a_manifest_that_is_no_manifest(bundle: Path, content: str, error: str) -> None:
    (bundle / "manifest.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(BundleError, match=error):
        read.read(bundle)


def test_a_backend_from_the_future(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["target"]["backend"] = "quantum"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="is for backend `quantum`"):
        read.read(bundle)


def test_a_missing_graph(bundle: Path) -> None:
    (bundle / "encoder.onnx").unlink()
    with pytest.raises(BundleError, match=r"`encoder.onnx` is missing"):
        read.open_session(read.read(bundle), "encoder")


def test_a_manifest_that_is_a_link(bundle: Path) -> None:
    (bundle / "manifest.json").rename(bundle.parent / "elsewhere.json")
    (bundle / "manifest.json").symlink_to(bundle.parent / "elsewhere.json")
    with pytest.raises(BundleError, match=r"manifest.json` is a link"):
        read.read(bundle)


def test_a_folder_that_is_a_link(bundle: Path) -> None:
    (bundle / "golden").rename(bundle.parent / "elsewhere")
    (bundle / "golden").symlink_to(bundle.parent / "elsewhere")
    assert "`golden` is a link" in read.integrity(read.read(bundle))


def test_what_python_leaves_beside_code_is_one_folder(bundle: Path) -> None:
    """It is code that runs, so it is no part of an intact bundle; the message says where from."""
    cache = bundle / "code" / "python" / "__pycache__"
    cache.mkdir(parents=True)
    for name in ("segmenter.cpython-311.pyc", "images.cpython-311.pyc"):
        (cache / name).write_bytes(b"compiled")
    (bundle / "code" / "more.txt").write_text("more")
    assert read.integrity(read.read(bundle)) == (
        "`code/more.txt` is not in the manifest",
        "`code/python/__pycache__` is not in the manifest: Python caches code there, delete the "
        "folder",
    )


@pytest.mark.parametrize("name", ["encoder.onnx.data", "encoder.engine", "encoder.x/deep/y"])
def test_a_file_beside_a_graph_that_is_not_listed(bundle: Path, name: str) -> None:
    (bundle / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle / name).write_bytes(b"weights of somebody else")
    opened = read.read(bundle)
    with pytest.raises(BundleError, match=f"`{name}` is not in the manifest"):
        read.open_session(opened, "encoder")
    read.check_component(opened, "decoder")


def test_graphs_that_no_runtime_opens(bundle: Path) -> None:
    manifest = fake.manifest_of(bundle)
    for content in (b"", b"no graph", (bundle / "encoder.onnx").read_bytes()[:500]):
        (bundle / "encoder.onnx").write_bytes(content)
        fake.save(bundle, manifest)
        with pytest.raises(EffsamError, match=r"encoder.onnx"):
            read.open_session(read.read(bundle), "encoder")


def test_a_graph_in_the_place_of_another(bundle: Path, photo: Path) -> None:
    manifest = fake.manifest_of(bundle)
    (bundle / "encoder.onnx").write_bytes((bundle / "decoder.onnx").read_bytes())
    fake.save(bundle, manifest)
    with pytest.raises(EffsamError, match=r"encoder.onnx"):
        segment(bundle, photo, [Prompt(points=(Point(x=60, y=40),))])


@pytest.mark.parametrize(
    ("part", "value", "error"),
    [
        ("options", {"provider": 4}, "target.options.provider is not of type str"),
        ("backend", "\x1b[2J", "control characters"),
        ("backend", "quantum", "does not know"),
    ],
)
def test_a_target_that_is_not_one(bundle: Path, part: str, value: object, error: str) -> None:
    manifest = fake.manifest_of(bundle)
    manifest["target"][part] = value
    fake.save(bundle, manifest)
    with pytest.raises(BundleError, match=error):
        read.read(bundle)


def test_a_manifest_of_many_values_is_refused_at_once(bundle: Path) -> None:
    (bundle / "manifest.json").write_bytes(b'{"files":[' + b"{}," * 200_000 + b"{}]}")
    began = time.perf_counter()
    with pytest.raises(BundleError, match="it has too many values"):
        read.read(bundle)
    assert time.perf_counter() - began < 1


def test_golden_masks_are_no_larger_than_the_image(bundle: Path) -> None:
    file = bundle / "golden" / "golden.json"
    document = json.loads(file.read_text("utf-8"))
    huge = {"size": [13_000, 13_000], "counts": [13_000 * 13_000]}
    for case in document["cases"]:
        case["masks"] = [huge] * len(case["masks"])
    file.write_text(json.dumps(document))
    with pytest.raises(BundleError, match="has 13000x13000 pixels, want 80x120"):
        golden.read_golden(read.read(bundle))


def test_a_missing_runtime(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with pytest.raises(ToolchainMissing, match="`onnxruntime`"):
        read.open_session(read.read(bundle), "encoder")


def test_golden_vectors_come_back_as_they_were(bundle: Path) -> None:
    vectors = golden.read_golden(read.read(bundle))
    assert vectors is not None
    assert [c.name for c in vectors.cases] == ["point", "both", "again"]
    again = vectors.cases[2]
    assert again.prompt.mask_input is not None
    assert again.prompt.mask_input.dtype == np.float32
    assert again.masks.shape == (4, 80, 120)
    assert len(again.answers) == 2


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"image": "image.png", "cases": [{}]}'])
def test_broken_golden_vectors(bundle: Path, content: str) -> None:
    (bundle / "golden" / "golden.json").write_text(content)
    with pytest.raises(BundleError, match=r"golden.json` cannot be read"):
        golden.read_golden(read.read(bundle))


def test_golden_vectors_do_not_read_outside_the_bundle(bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "secret.npy", np.zeros((256, 256), np.float32))
    file = bundle / "golden" / "golden.json"
    file.write_text(file.read_text().replace("again.mask_input.npy", "../../secret.npy"))
    with pytest.raises(BundleError):
        golden.read_golden(read.read(bundle))
