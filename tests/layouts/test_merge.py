"""`effsam merge-layout`: one folder with the graphs of several precisions."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from effsam_export.bundle.merge import merge
from effsam_export.errors import BundleError, OutputError, UsageError
from effsam_export.parity.metrics import mask_iou
from tests.layouts import apps

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

pytestmark = [pytest.mark.backend, pytest.mark.usefixtures("shallow")]


def test_both_precisions_are_in_the_folder(
    layout_bundle: Callable[[str, str], Path], tmp_path: Path, picture: NDArray[np.uint8]
) -> None:
    paths = [layout_bundle("transformers-js", p) for p in ("fp16", "fp32")]
    output = tmp_path / "model"
    names = merge(paths, output)
    found = {p.relative_to(output).as_posix() for p in output.rglob("*") if p.is_file()}
    assert found == set(names)
    assert found == {
        "README.md",
        "config.json",
        "preprocessor_config.json",
        "licenses/Apache-2.0.txt",
        "onnx/vision_encoder.onnx",
        "onnx/vision_encoder_fp16.onnx",
        "onnx/prompt_encoder_mask_decoder.onnx",
        "onnx/prompt_encoder_mask_decoder_fp16.onnx",
    }
    config = json.loads((output / "config.json").read_text("utf-8"))
    assert config["transformers.js_config"]["device_config"]["webgpu"]["dtype"] == "fp16"
    assert "| fp16 | `onnx/vision_encoder_fp16.onnx`" in (output / "README.md").read_text("utf-8")
    masks = [
        apps.transformers_js(output, picture, [[[60.0, 40.0]]], [[1]], suffix)[0][0]
        for suffix in ("", "_fp16")
    ]
    assert min(map(mask_iou, *masks)) > 0.98


def test_bundles_that_do_not_belong_together(
    layout_bundle: Callable[[str, str], Path], exported_tiny: Path, tiny: None, tmp_path: Path
) -> None:
    fp32 = layout_bundle("transformers-js", "fp32")
    with pytest.raises(UsageError, match="two bundles are fp32"):
        merge([fp32, fp32], tmp_path / "model")
    with pytest.raises(UsageError, match="a folder of AnyLabeling has one precision"):
        merge([layout_bundle("anylabeling", "fp32"), fp32], tmp_path / "model")
    with pytest.raises(UsageError, match="is not in the layout of an app") as caught:
        merge([exported_tiny, fp32], tmp_path / "model")
    for what in ("layout", "model", "checkpoint"):
        assert f"has another {what} than" in caught.value.message
    assert not (tmp_path / "model").exists()


def test_a_broken_bundle_and_a_folder_that_is_taken(
    layout_bundle: Callable[[str, str], Path], tmp_path: Path
) -> None:
    paths = [layout_bundle("transformers-js", p) for p in ("fp16", "fp32")]
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(OutputError):
        merge(paths, tmp_path / "taken")
    broken = shutil.copytree(paths[0], tmp_path / "broken")
    with (broken / "onnx" / "vision_encoder_fp16.onnx").open("ab") as file:
        file.write(b"more")
    with pytest.raises(BundleError, match="bundles are not intact"):
        merge([broken, paths[1]], tmp_path / "model")
    assert not (tmp_path / "model").exists()
