"""`effsam merge-layout`: one folder with the graphs of several precisions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from effsam_export.bundle.merge import merge
from effsam_export.errors import BundleError, OutputError, UsageError
from effsam_export.layouts import transformers_js
from effsam_export.parity.metrics import mask_iou
from tests.bundle import fake
from tests.layouts import apps

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from effsam_export.spec.targets import Precision
    from tests.layouts.marks import LayoutBundle

PRECISIONS: tuple[Precision, ...] = ("fp16", "int8", "fp32")


def written(folder: Path, precision: Precision, layout: str = "transformers-js") -> Path:
    """A bundle in a layout, whose files are a few bytes."""
    path = fake.write(folder / f"{layout}-{precision}")
    manifest = fake.manifest_of(path)
    manifest["target"]["layout"] = layout
    manifest["precision"]["requested"] = precision
    names = transformers_js.paths(precision)
    (path / "onnx").mkdir()
    for component in manifest["components"]:
        before, after = component["files"][0], names[component["name"]]
        (path / before).rename(path / after)
        (path / after).write_text(f"{component['name']} in {precision}")
        component.update(files=[after], source=after)
        next(e for e in manifest["files"] if e["path"] == before)["path"] = after
    fake.save(path, manifest)
    return path


def test_all_precisions_are_in_the_folder(tiny: None, tmp_path: Path) -> None:
    paths = [written(tmp_path, p) for p in PRECISIONS]
    output = tmp_path / "model"
    names = merge(paths, output)
    found = {p.relative_to(output).as_posix() for p in output.rglob("*") if p.is_file()}
    assert found == set(names)
    graphs = {name for p in PRECISIONS for name in transformers_js.paths(p).values()}
    assert found == {
        *graphs,
        "README.md",
        "config.json",
        "preprocessor_config.json",
        "licenses/Apache-2.0.txt",
    }
    assert (output / "onnx/vision_encoder_quantized.onnx").read_text() == "encoder in int8"
    config = json.loads((output / "config.json").read_text("utf-8"))["transformers.js_config"]
    assert config["device_config"]["webgpu"]["dtype"] == "fp16"
    assert config["device_config"]["wasm"]["dtype"] == "q8"
    assert "| fp16 | `onnx/vision_encoder_fp16.onnx`" in (output / "README.md").read_text("utf-8")


def test_bundles_that_do_not_belong_together(tiny: None, tmp_path: Path) -> None:
    fp32 = written(tmp_path, "fp32")
    with pytest.raises(UsageError, match="two bundles are fp32"):
        merge([fp32, fp32], tmp_path / "model")
    with pytest.raises(UsageError, match="a folder of AnyLabeling has one precision"):
        merge([written(tmp_path, "fp32", "anylabeling"), fp32], tmp_path / "model")
    other = fake.write(tmp_path / "other")
    manifest = fake.manifest_of(other)
    manifest["model"]["name"] = "mobile-sam"
    manifest["checkpoint"]["sha256"] = "1" * 64
    fake.save(other, manifest)
    with pytest.raises(UsageError, match="is not in the layout of an app") as caught:
        merge([other, fp32], tmp_path / "model")
    for what in ("layout", "model", "checkpoint"):
        assert f"has another {what} than" in caught.value.message
    assert not (tmp_path / "model").exists()


def test_a_broken_bundle_and_a_folder_that_is_taken(tiny: None, tmp_path: Path) -> None:
    paths = [written(tmp_path, p) for p in PRECISIONS]
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(OutputError):
        merge(paths, tmp_path / "taken")
    with (paths[0] / "onnx" / "vision_encoder_fp16.onnx").open("ab") as file:
        file.write(b"more")
    with pytest.raises(BundleError, match="bundles are not intact"):
        merge(paths, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
@pytest.mark.backend
def test_exports_in_all_precisions(
    layout_bundle: LayoutBundle, shallow: None, tmp_path: Path, picture: NDArray[np.uint8]
) -> None:
    merge([layout_bundle("transformers-js", p) for p in PRECISIONS], tmp_path / "model")
    fp32, *others = (
        apps.transformers_js(tmp_path / "model", picture, [[[60.0, 40.0]]], [[1]], suffix)[0][0]
        for suffix in ("", "_fp16", "_quantized")
    )
    for other, least in zip(others, (0.98, 0.9), strict=True):
        assert min(map(mask_iou, fp32, other)) > least
