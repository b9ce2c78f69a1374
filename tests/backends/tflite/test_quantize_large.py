"""Large convolution weights: reshaped for ai-edge-quantizer, and restored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")
pytest.importorskip("litert_torch")
pytest.importorskip("ai_edge_litert")
pytest.importorskip("ai_edge_quantizer")
import torch
from torch import nn

from effsam_export.backends.tflite import convert as tflite_convert
from effsam_export.backends.tflite import file as tflite_file
from effsam_export.backends.tflite import quantize as tflite_ptq
from effsam_export.backends.tflite import quantize_large
from effsam_export.backends.tflite.session import InterpreterSession
from effsam_export.spec.int8 import Quantization
from tests.backends.tflite.quantize_tools import SPEC, converted, error, recipe
from tests.backends.tflite.tools import component, save_program

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.stages import Graph

pytestmark = pytest.mark.backend
WIDE = 2900
"""Channels of a 1 x 1 convolution with 33.6 MB of weights."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Graph, bytes]:
    """Small layers of each kind, traced and converted."""
    return converted(tmp_path_factory.mktemp("traced"))


def shapes_of(content: bytes) -> dict[bytes, tuple[int, ...]]:
    model = tflite_file.parse(content)
    return {t.name: tflite_file.shape_of(t) for t in model.subgraphs[0].tensors}


def test_small_weights_are_not_reshaped(made: tuple[Graph, bytes]) -> None:
    model = tflite_file.parse(made[1])
    assert quantize_large.flatten(model) == {}
    assert tflite_file.serialise(model) == tflite_file.serialise(tflite_file.parse(made[1]))


def test_flatten_and_restore(made: tuple[Graph, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize_large, "LIMIT", 0)
    model = tflite_file.parse(made[1])
    shapes = quantize_large.flatten(model)
    # The stem is a convolution; the depthwise one keeps its channels last, and is never large.
    assert list(shapes.values()) == [(16, 3, 3, 3)]
    flat = shapes_of(tflite_file.serialise(model))
    assert [flat[name] for name in shapes] == [(16, 27)]
    quantize_large.restore(model, shapes)
    assert tflite_file.serialise(model) == tflite_file.serialise(tflite_file.parse(made[1]))


@pytest.mark.parametrize("scheme", ["w8a8", "weight_only"])
def test_flattening_does_not_change_the_result(
    made: tuple[Graph, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scheme: str
) -> None:
    graph, content = made
    assert graph.program is not None
    asked = recipe() if scheme == "w8a8" else recipe(weight_only="stem deep block")
    plan = Quantization(recipe=asked, samples=tmp_path)
    whole = tflite_ptq.quantize(content, graph.program, plan, SPEC)
    monkeypatch.setattr(quantize_large, "LIMIT", 0)
    assert tflite_ptq.quantize(content, graph.program, plan, SPEC) == whole


def test_a_large_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(WIDE, WIDE, 1).eval()
    spec = component({"image": (1, WIDE, 2, 2)}, {"features": (1, WIDE, 2, 2)}, "encoder")
    graph = save_program(layer, spec, tmp_path / "wide.pt2")
    assert graph.program is not None
    content = tflite_convert.convert(graph.program, spec)
    plan = Quantization(recipe=recipe(), samples=tmp_path)
    found = tflite_ptq.quantize(content, graph.program, plan, spec)
    assert tflite_file.count_constants(tflite_file.parse(found))["int8"] == WIDE**2
    feeds = {"image": torch.randn(1, WIDE, 2, 2).numpy()}
    answers = []
    for number, file in enumerate((content, found)):
        (path := tmp_path / f"{number}.tflite").write_bytes(file)
        answers.append(InterpreterSession(path, "encoder", 1).run(feeds)["features"])
    assert 0 < error(answers[1], answers[0]) < 0.02

    # Once this library takes it as it is, the module under test can go.
    monkeypatch.setattr(quantize_large, "LIMIT", 2**40)
    with pytest.raises(RuntimeError, match="more dimensions than allowed"):
        tflite_ptq.quantize(content, graph.program, plan, spec)
