"""Every model through the command line, from a checkpoint in its authors' container to masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from benchmarks import golden_checkpoints, systems
from effsam_export import models
from effsam_export.config.parity import load_parity_images
from effsam_export.imaging.images import unsupported_parts

if TYPE_CHECKING:
    from pathlib import Path

LEAST_IOU = 0.999
"""The gate of the `onnx` target in FP32, which `effsam export` holds as well."""


def test_every_model_has_a_checkpoint_to_be_tried_with() -> None:
    assert set(golden_checkpoints.VARIANTS) == set(models.MODELS)


@pytest.mark.backend
@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("name", models.MODELS)
def test_export_run_and_verify(name: str, tmp_path: Path, shared: Path) -> None:
    row = systems.measure(name, "onnx", tmp_path, shared / "golden")
    assert not row.problem
    assert row.prompts >= 8
    assert row.min_iou is not None
    assert row.min_iou >= LEAST_IOU
    assert row.bytes > 0


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_supports_some_of_the_shipped_prompts(name: str) -> None:
    support = models.get(name).prompts
    prompts = [c.prompt for row in load_parity_images() for c in row.cases]
    honoured = [p for p in prompts if not unsupported_parts(p, support)]
    assert any(p.box is not None for p in honoured)
    assert any(p.points and p.box is None for p in honoured)


@pytest.mark.parametrize(
    ("name", "sentences"),
    [
        (
            "efficient-sam-ti",
            ["this model takes no background points", "this model takes no mask"],
        ),
        (
            "fast-sam-x",
            ["this model takes points or a box, not both at once", "this model takes no mask"],
        ),
        ("edge-sam", []),
        ("efficientvit-sam-l0", []),
        ("expedit-sam-vit-b", []),
        ("repvit-sam", []),
        ("sam-vit-b", []),
        ("slim-sam-50", []),
        ("sam-lightening", []),
        ("mobile-sam", []),
    ],
)
def test_prompts_beyond_a_model_are_named(name: str, sentences: list[str]) -> None:
    import numpy as np

    from effsam_export.spec.prompts import Point, Prompt

    prompt = Prompt(
        points=(Point(x=1, y=1), Point(x=2, y=2, label=0)),
        box=(0, 0, 9, 9),
        mask_input=np.zeros((256, 256), dtype=np.float32),
    )
    assert unsupported_parts(prompt, models.get(name).prompts) == sentences


def test_a_box_counts_as_two_points() -> None:
    from effsam_export.spec.prompts import Point, Prompt

    support = models.get("efficient-sam-s").prompts
    four, five = (tuple(Point(x=i, y=i) for i in range(n)) for n in (4, 5))
    assert unsupported_parts(Prompt(points=four, box=(0, 0, 9, 9)), support) == []
    assert unsupported_parts(Prompt(points=five, box=(0, 0, 9, 9)), support) == [
        "this model takes 6 points, a box counting as two, not 7"
    ]
