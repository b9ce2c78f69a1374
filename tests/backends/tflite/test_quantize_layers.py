"""Layers of a traced program matched to a .tflite file by their weights, and unfolded scales."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("litert_torch")
pytest.importorskip("ai_edge_litert")
pytest.importorskip("ai_edge_quantizer")
import torch
from torch import Tensor, nn

from effsam_export.backends.tflite import convert as tflite_convert
from effsam_export.backends.tflite import file as tflite_file
from effsam_export.backends.tflite import quantize as tflite_ptq
from effsam_export.backends.tflite import quantize_layers
from effsam_export.errors import CheckFailed
from effsam_export.spec.int8 import Quantization
from tests.backends.tflite.quantize_tools import (
    CHANNELS,
    IMAGE,
    SIDE,
    SIZES,
    answer,
    converted,
    error,
    image,
    layers,
    recipe,
    wanted,
)
from tests.backends.tflite.tools import component, save_program

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.stages import Graph

pytestmark = pytest.mark.backend


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Graph, bytes]:
    """The layers, traced and converted."""
    return converted(tmp_path_factory.mktemp("traced"))


def test_each_layer_is_found_by_its_weights(made: tuple[Graph, bytes]) -> None:
    graph, content = made
    assert graph.program is not None
    model = tflite_file.parse(content)
    found = quantize_layers.match_layers(model, quantize_layers.layers_of_program(graph.program))
    kinds = {
        layer.modules[-1]: tflite_file.operator_name(model, model.subgraphs[0].operators[i])
        for i, layer in found.items()
    }
    assert kinds == {
        "stem": "CONV_2D",
        "deep": "DEPTHWISE_CONV_2D",
        "block.qkv": "FULLY_CONNECTED",
        "block.proj": "FULLY_CONNECTED",
        "block.fc": "FULLY_CONNECTED",
    }
    assert all(layer.rows.size == SIZES[layer.modules[-1]] for layer in found.values())


def test_order_does_not_matter(made: tuple[Graph, bytes]) -> None:
    graph, content = made
    assert graph.program is not None
    model, rows = tflite_file.parse(content), quantize_layers.layers_of_program(graph.program)
    straight, turned = (quantize_layers.match_layers(model, r) for r in (rows, rows[::-1]))
    assert {i: x.modules for i, x in straight.items()} == {i: x.modules for i, x in turned.items()}


def test_a_missing_layer_is_refused(made: tuple[Graph, bytes]) -> None:
    graph, content = made
    assert graph.program is not None
    first, *rest = quantize_layers.layers_of_program(graph.program)
    other = replace(first, rows=np.roll(first.rows, 1, axis=0))
    message = r"1 of 5 layers were not found in the \.tflite file.*`stem`"
    with pytest.raises(CheckFailed, match=message):
        quantize_layers.match_layers(tflite_file.parse(content), [other, *rest])


def test_input_scales_are_unfolded_without_changing_outputs(
    made: tuple[Graph, bytes], tmp_path: Path
) -> None:
    graph, content = made
    assert graph.program is not None
    model = tflite_file.parse(content)
    found = quantize_layers.match_layers(model, quantize_layers.layers_of_program(graph.program))
    before = tflite_file.count_operators(model)
    quantize_layers.unfold_input_scales(model, found)
    after = tflite_file.count_operators(model)
    assert {k: v - before[k] for k, v in after.items() if v != before[k]} == {"MUL": 1}
    assert error(answer(tflite_file.serialise(model), tmp_path / "m.tflite"), wanted()) < 1e-5
    stored = [quantize_layers.weight_rows(model, o) for o in model.subgraphs[0].operators]
    own = layers().block.fc.weight.detach().numpy()
    assert any(rows is not None and np.array_equal(rows, own) for rows in stored)


class Rewritten(nn.Module):
    """Layers that the converter writes differently from torch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CHANNELS, 1, bias=False)
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.groups = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=4)
        self.wider = nn.ConvTranspose2d(CHANNELS, 4, 2, stride=2)
        self.twice = nn.Linear(2 * SIDE, 2 * SIDE)

    def forward(self, image: Tensor) -> Tensor:
        x = self.wider(self.groups(self.norm(self.conv(image))))
        done: Tensor = self.twice(torch.tanh(self.twice(x)))
        return done


def test_layers_that_the_converter_rewrites_are_matched(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Rewritten().eval()
    with torch.no_grad():
        for values in (module.norm.weight, module.norm.get_buffer("running_var")):
            values.copy_(torch.rand(CHANNELS) + 0.1)
        expected = module(torch.from_numpy(image())).numpy()
    spec = component({"image": IMAGE}, {"image_embeddings": expected.shape}, "encoder")
    program = save_program(module, spec, tmp_path / "encoder.pt2").program
    assert program is not None
    modules = [layer.modules[-1] for layer in quantize_layers.layers_of_program(program)]
    assert modules == ["conv", "groups", "wider", "twice", "twice"]
    plan = Quantization(recipe=recipe(), samples=tmp_path)
    content = tflite_ptq.quantize(tflite_convert.convert(program, spec), program, plan, spec)
    counts = tflite_file.count_constants(tflite_file.parse(content))
    parts = (module.conv, module.groups, module.wider, module.twice)
    assert counts["int8"] == sum(part.weight.numel() for part in parts)
    assert error(answer(content, tmp_path / "m.tflite"), expected) < 0.03
