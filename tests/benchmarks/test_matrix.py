"""The matrix of models and targets, on the small model: cells, cached answers, the file of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("torch")
from benchmarks import matrix
from effsam_export import models
from effsam_export.config import targets as profiles
from effsam_export.config.parity import load_parity_images
from effsam_export.parity.cached import CachedSession, cached_reference, key_of
from effsam_export.spec.prompts import Point, Prompt, Sample
from effsam_export.spec.targets import Gates
from tests.small import SMALL_SAM, build

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.stages import Checkpoint, Graph
    from effsam_export.spec.tensors import Array, Feeds

    Fp32 = tuple[matrix.Cell, dict[tuple[object, ...], Graph]]

pytestmark = pytest.mark.backend

CELL = matrix.Cell(
    model="mobile-sam",
    target="coreml",
    precision="fp16",
    official=True,
    state="simulated",
    bytes=24_500_000,
    lower_s=18.4,
    prompts=14,
    min_iou=0.99447,
    mean_iou=0.9986,
    min_best_iou=0.99701,
)


@pytest.fixture(scope="module")
def prepared(
    small_checkpoint: Checkpoint, parity_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> matrix.Prepared:
    """Traced once for all cells, as a matrix does."""
    images = load_parity_images(parity_file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, SMALL_SAM.name, ("tests.small", "SMALL_SAM"))
        folder = tmp_path_factory.mktemp("matrix")
        return matrix.prepare(SMALL_SAM.name, small_checkpoint.path, images, folder)


@pytest.fixture(scope="module")
def fp32(prepared: matrix.Prepared) -> Fp32:
    """The first cell of the matrix, and the graphs that were traced for it."""
    cell = matrix.make(prepared, profiles.load_target("onnx", "fp32"))
    return cell, dict(prepared.graphs)


@pytest.mark.slow
def test_a_cell_is_what_an_export_would_find(fp32: Fp32) -> None:
    cell, _ = fp32
    assert (cell.state, cell.simulator, cell.reason) == ("verified", "", "")
    assert cell.prompts == 3
    assert cell.min_iou == cell.min_best_iou == 1.0
    assert cell.bytes > 10_000_000
    assert cell.lower_s > 0
    assert not cell.official


@pytest.mark.slow
def test_a_missed_gate_is_a_failed_cell_with_the_reason(prepared: matrix.Prepared) -> None:
    strict = Gates(mask_iou=1.0, score_error=0.0, cosine=1.1)
    cell = matrix.make(prepared, replace(profiles.load_target("onnx", "fp32"), gates=strict))
    assert cell.state == "failed"
    assert "`image_embeddings` has cosine" in cell.reason
    assert cell.min_iou == 1.0


@pytest.mark.slow
def test_int8_quantizes_the_encoder_and_says_how_near_it_comes(
    prepared: matrix.Prepared, fp32: Fp32
) -> None:
    target = profiles.load_target("onnx", "int8")
    cell = matrix.make(prepared, target)
    assert cell.precision == "int8"
    assert cell.finite
    assert cell.min_iou is not None
    assert cell.min_iou < 1
    assert set(prepared.samples) == {"encoder"}
    assert cell.bytes < 0.7 * fp32[0].bytes


@pytest.mark.slow
def test_a_component_is_traced_once_for_each_kind_of_shape(
    prepared: matrix.Prepared, fp32: Fp32, tmp_path: Path
) -> None:
    prepared = replace(prepared, graphs=dict(fp32[1]), folder=tmp_path)
    target = profiles.load_target("onnx", "fp32")
    for component in prepared.model.components:
        first = matrix.graph_of(prepared, component, target, None)
        again = matrix.graph_of(prepared, component, replace(target, precision="fp16"), None)
        assert first.path == again.path
    assert len(prepared.graphs) == 2
    slotted = models.fixed.with_slots(prepared.model, 4)
    assert matrix.graph_of(prepared, slotted.component("decoder"), target, None).program is not None
    assert len(prepared.graphs) == 3


def test_the_reference_answers_a_question_once() -> None:
    asked: list[str] = []

    def reference(module: object, sample: Sample) -> Feeds:
        asked.append(repr(sample.prompt))
        return SMALL_SAM.component("decoder").reference(build(), sample)

    component = cached_reference(replace(SMALL_SAM.component("decoder"), reference=reference))
    sample = Sample(
        image=np.zeros((4, 4, 3), dtype=np.uint8),
        embeddings=np.zeros((1, 256, 16, 16), dtype=np.float32),
        prompt=Prompt(points=(Point(x=1, y=2),)),
    )
    first = component.reference(build(), sample)
    assert component.reference(build(), sample) is first
    logits = np.ones((64, 64), dtype=np.float32)
    others = [
        replace(sample, prompt=Prompt(points=(Point(x=2, y=2),))),
        replace(sample, prompt=Prompt(points=(Point(x=1, y=2),), mask_input=logits)),
        replace(sample, embeddings=np.ones((1, 256, 16, 16), dtype=np.float32)),
    ]
    for other in others:
        assert component.reference(build(), other) is not first
    assert len(asked) == 4


class Counting:
    """A session that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def run(self, feeds: Feeds) -> Feeds:
        self.calls += 1
        return {"y": feeds["x"] + 1}


def test_a_session_answers_a_question_once() -> None:
    inner = Counting()
    session = CachedSession(inner)
    for _ in range(2):
        np.testing.assert_array_equal(session.run({"x": np.zeros(2)})["y"], [1, 1])
    assert inner.calls == 1
    session.run({"x": np.zeros(3)})
    assert inner.calls == 2


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (np.zeros(2), np.zeros((1, 2))),
        (np.zeros(2, np.float32), np.zeros(1, np.float64)),
        (np.zeros(2), np.array([0.0, -0.0])),
    ],
    ids=["shape", "dtype", "sign of zero"],
)
def test_different_tensors_have_different_keys(one: Array, two: Array) -> None:
    assert key_of([("x", one)]) != key_of([("x", two)])
    assert key_of([("x", one)]) == key_of([("x", one.copy())])


def test_the_table() -> None:
    failed = replace(CELL, state="failed", min_iou=None, mean_iou=None, reason="why not")
    failed = replace(failed, min_best_iou=None)
    lines = matrix.table([CELL, failed]).splitlines()
    assert lines[2:] == [
        "| `mobile-sam` | coreml | fp16 | simulated | 24.5 | 18 | 14 | 0.9945 | 0.9986 | 0.9970 "
        "| 0 |  |",
        "| `mobile-sam` | coreml | fp16 | failed | 24.5 | 18 | 14 | - | - | - | 0 | why not |",
    ]


def test_cells_are_kept_with_their_machine(tmp_path: Path) -> None:
    path = tmp_path / "cells.json"
    matrix.write([CELL], path)
    document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    assert document["machine"]["cores"] >= 1
    assert matrix.read(path) == [CELL]
    assert matrix.read(tmp_path / "none.json") == []


def test_one_photograph_has_every_kind_of_prompt() -> None:
    (row,) = matrix.evaluation_images_of(None, full=False)
    assert {c.name for c in row.cases} == matrix.PROMPTS
    assert any(c.prompt.box and c.prompt.points for c in row.cases)
    assert any(c.mask_from for c in row.cases)
    assert len(matrix.evaluation_images_of(None, full=True)) == 3
