"""The official MobileSAM at other sizes of its input.

A square and a rectangle; what a runtime does with a size is tested on smaller models.

The authors' own code has masks at 1024 pixels alone. At another size, an export is compared with
their modules at that size, and loosely with their mask at 1024.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")

from effsam_export.bundle import read
from effsam_export.config import targets as profiles
from effsam_export.inference import runner
from effsam_export.inference.segment import segment
from effsam_export.models import image_sizes
from effsam_export.parity.metrics import mask_iou
from effsam_export.pipeline.request import ExportRequest
from effsam_export.spec.sizes import Size, text_of
from tests.bundle.fake import manifest_of
from tests.integrate.tools import generate
from tests.integrate.tools import run as execute
from tests.models.official import MODEL, read_case, reference
from tests.stages import export

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.stages import Checkpoint

pytestmark = [pytest.mark.backend, pytest.mark.shared]

PARITY = """
[[images]]
file = "{image}"
prompts = [
  {{ name = "centre", points = [[400, 267, 1]] }},
  {{ name = "bag", box = [370, 170, 445, 345] }},
  {{ name = "refine", points = [[400, 267, 1]], mask_from = "centre" }},
]
"""
EXPORTS: list[tuple[str, Size, str, pytest.MarkDecorator]] = [
    # Target, size, the package it needs, the tier.
    ("onnx", 512, "onnxruntime", pytest.mark.weights),
    ("onnx", (1024, 768), "onnxruntime", pytest.mark.slow),
    ("openvino", 512, "openvino", pytest.mark.weights),
]
SAME_MASK = 0.999
"""IoU with the mask of the PyTorch modules at this size, in FP32."""
SAME_OBJECT = 0.5
"""IoU with the authors' mask at 1024 pixels. The weights were not trained at other sizes: 0.61 was
measured at 512. Prompts or masks in another frame give nearly nothing."""


@pytest.mark.parametrize(
    ("target", "size", "package"),
    [pytest.param(t, s, p, marks=tier, id=f"{t}-{text_of(s)}") for t, s, p, tier in EXPORTS],
)
def test_mobile_sam(
    target: str,
    size: Size,
    package: str,
    official: Checkpoint,
    shared: Path,
    tmp_path: Path,
    stage_root: Path,
) -> None:
    pytest.importorskip(package)
    photo = shared / "images" / "groceries.jpg"
    (tmp_path / "parity.toml").write_text(PARITY.format(image=photo.as_posix()), "utf-8")
    request = ExportRequest(
        model=image_sizes.resized(MODEL, size),
        target=profiles.load_target(target),
        checkpoint=official,
        output=tmp_path / "bundle",
        parity_file=tmp_path / "parity.toml",
    )
    assert export(request, stage_root).passed
    assert read.read(request.output).model.preprocess.image_size == size

    case = read_case(shared, "groceries")
    prompt = case.prompt("box")
    (mask,) = segment(request.output, photo, [prompt], single_mask=True).prediction.masks
    encode, decode = reference(official, model=request.model)
    embedded, masks = encode(case.image), request.model.masks
    expected = runner.select(decode(embedded, prompt), masks.single, masks, embedded.frame)
    assert mask_iou(expected.masks[0], mask) >= SAME_MASK
    assert mask_iou(case.masks("box", "single")[0], mask) >= SAME_OBJECT

    if target == "onnx":
        code = generate(manifest_of(request.output), "python", tmp_path / "code")
        done = execute([sys.executable, "selftest.py", str(request.output)], code)
        assert done.stdout.endswith("PASSED\n"), done.stdout + done.stderr
