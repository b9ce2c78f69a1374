"""The official MobileSAM on one photograph in the pixel formats in which people's images come.

`images.py` of the shared folder makes the files and says what is right for each.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from effsam_export.bundle import read
from effsam_export.config import targets as profiles
from effsam_export.errors import ImageError
from effsam_export.inference.segment import Segmentation, segment
from effsam_export.parity.metrics import mask_iou
from effsam_export.pipeline.request import ExportRequest
from effsam_export.spec.prompts import Point, Prompt
from tests.imaging.deep_files import tiff
from tests.models.official import MODEL
from tests.paths import SHARED
from tests.stages import export

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from effsam_export.backends import ArtifactSession
    from effsam_export.spec.stages import Checkpoint

pytestmark = [pytest.mark.backend, pytest.mark.shared, pytest.mark.weights]

SCRIPT = SHARED / "cases" / "images.py"
PROMPT = Prompt(points=(Point(x=500, y=375),))
MIN_IOU = 0.95
MORE_GREY = ("grey14_in_16.tif", "int16.tif", "uint32.tif", "float255.tif")
PARITY = '[[images]]\nfile = "rgb.png"\nprompts = [{ name = "pane", points = [[500, 375, 1]] }]\n'


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files, and some kinds that the script does not make."""
    folder = tmp_path_factory.mktemp("images")
    subprocess.run([sys.executable, str(SCRIPT), str(folder)], check=True)
    with Image.open(folder / "rgb.png") as image:
        rgb = np.asarray(image).astype(np.uint16)
    with Image.open(folder / "grey8.png") as image:
        grey = np.asarray(image)[..., None]
    more = {
        "rgb12_in_16.tif": tiff(rgb << 4, order=">", deflated=True),
        "grey14_in_16.tif": tiff(grey.astype(np.uint16) << 6),
        "int16.tif": tiff(grey.astype(np.int16) * 8 - 500),
        "uint32.tif": tiff(grey.astype(np.uint32) * 1_000_000),
        "float255.tif": tiff(grey.astype(np.float32)),
        "pages.tif": tiff(rgb.astype(np.uint8), rgb.astype(np.uint8)[::-1]),
    }
    for name, content in more.items():
        (folder / name).write_bytes(content)
    (folder / "float65535.tif").write_bytes(tiff(grey.astype(np.float32) * 257))
    return folder


@pytest.fixture(scope="module")
def bundle(
    tmp_path_factory: pytest.TempPathFactory, official: Checkpoint, files: Path, stage_root: Path
) -> Path:
    parity = files / "parity.toml"
    parity.write_text(PARITY, "utf-8")
    request = ExportRequest(
        model=MODEL,
        target=profiles.load_target("onnx", "fp32"),
        checkpoint=official,
        output=tmp_path_factory.mktemp("official") / "bundle",
        parity_file=parity,
    )
    export(request, stage_root)
    return request.output


@pytest.fixture(scope="module", autouse=True)
def opened_once() -> Iterator[None]:
    """Open the graphs of the bundle for the first image alone."""
    open_session = read.open_session
    sessions: dict[tuple[Path, str], ArtifactSession] = {}

    def once(bundle: read.Bundle, component: str) -> ArtifactSession:
        key = bundle.path, component
        if key not in sessions:
            sessions[key] = open_session(bundle, component)
        return sessions[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "open_session", once)
        yield


@pytest.fixture(scope="module")
def of_grey(bundle: Path, files: Path) -> Segmentation:
    return segment(bundle, files / "grey8.png", [PROMPT])


@pytest.fixture(scope="module")
def of_rgb(bundle: Path, files: Path) -> Segmentation:
    return segment(bundle, files / "rgb.png", [PROMPT])


def listed(name: str) -> list[str]:
    """A list of the script, or nothing where the shared folder is not."""
    if not SCRIPT.is_file():
        return []
    spec = importlib.util.spec_from_file_location("shared_images", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(getattr(module, name))


def check(found: Segmentation, wanted: Segmentation) -> None:
    assert mask_iou(found.prediction.masks[0], wanted.prediction.masks[0]) >= MIN_IOU


@pytest.mark.parametrize("name", [*listed("SAME_AS_GREY8"), *listed("RANGE_SAID"), *MORE_GREY])
def test_grey_images(bundle: Path, files: Path, of_grey: Segmentation, name: str) -> None:
    found = segment(bundle, files / name, [PROMPT])
    check(found, of_grey)
    if name != "grey_alpha.png":
        assert "by the range `auto`" in found.decoded.notes[-1]


@pytest.mark.parametrize("name", [*listed("SAME_AS_RGB"), "rgb12_in_16.tif", "pages.tif"])
def test_colour_images(bundle: Path, files: Path, of_rgb: Segmentation, name: str) -> None:
    found = segment(bundle, files / name, [PROMPT])
    check(found, of_rgb)
    assert bool(found.decoded.notes) == (name in ("rgb16.png", "rgb12_in_16.tif", "pages.tif"))


@pytest.mark.parametrize("name", listed("TOO_LARGE"))
def test_images_that_are_too_large(bundle: Path, files: Path, name: str) -> None:
    with pytest.raises(ImageError, match="is too large") as refused:
        segment(bundle, files / name, [PROMPT])
    assert str(refused.value.hint).startswith("resize it")


def test_a_range_that_has_to_be_given(bundle: Path, files: Path, of_grey: Segmentation) -> None:
    path = files / "float65535.tif"
    with pytest.raises(ImageError, match="fit neither 0 to 1 nor 0 to 255") as refused:
        segment(bundle, path, [PROMPT])
    assert "--range LOW,HIGH" in str(refused.value.hint)
    check(segment(bundle, path, [PROMPT], value_range=(0, 65535)), of_grey)
