"""Whole exports of the models of the apps' layouts, on the shipped images and prompts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from effsam_export import models
from effsam_export.config.targets import load_target
from effsam_export.weights import own_file
from tests import golden_weights
from tests.stages import export

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS = {
    "edge-sam": "edge_sam",
    "repvit-sam": "repvit",
    "sam-vit-b": "vit_b",
    "slim-sam-77": "slimsam_77_uniform",
    "efficientvit-sam-l0": "efficientvit_sam_l0",
}
"""Model -> folder of the names and shapes of its deterministic weights."""
SAM_LIKE = ("edge-sam", "repvit-sam", "sam-vit-b", "slim-sam-77")
CASES = [
    *((name, target) for target in ("anylabeling", "transformers-js") for name in SAM_LIKE),
    ("edge-sam", "x-anylabeling"),
    ("efficientvit-sam-l0", "x-anylabeling"),
]


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.backend
@pytest.mark.parametrize(("name", "target"), CASES)
def test_parity(name: str, target: str, tmp_path: Path, shared: Path, stage_root: Path) -> None:
    import torch

    from effsam_export.pipeline.request import ExportRequest

    manifest = (shared / "golden" / WEIGHTS[name] / "manifest.json").read_text("utf-8")
    golden = golden_weights.Golden(manifest=json.loads(manifest), figures={})
    spec = models.get(name)
    path = tmp_path / "weights.pt"
    torch.save(golden_weights.load_weights(spec.build(), golden).state_dict(), path)
    request = ExportRequest(
        model=spec,
        target=load_target(target, "fp32"),
        checkpoint=own_file.checkpoint_from_file(path, None),
        output=tmp_path / "bundle",
    )
    report = export(request, stage_root)
    minimum = min(case.min_iou for case in report.cases)
    print(f"{name}, {target}: {len(report.cases)} prompts, min mask IoU {minimum:.5f}")
    assert len(report.cases) == 12
