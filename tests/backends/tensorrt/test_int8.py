"""INT8 for TensorRT: the typed ONNX with its Q/DQ pairs, and its counts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
import onnx
from onnx import TensorProto

from effsam_export.backends.onnx.session import OnnxSession
from effsam_export.backends.tensorrt import shape_ranges
from effsam_export.backends.tensorrt import typed as trt_typed
from effsam_export.backends.tensorrt import write_kit as trt_kit
from effsam_export.backends.tensorrt.kit import verify_engine
from effsam_export.config import targets as profiles
from effsam_export.errors import CheckFailed
from effsam_export.spec.int8 import Int8Recipe, Quantization
from tests.backends.test_contract import WEIGHT, feeds, wanted, write_graph

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.int8 import Treatment
    from effsam_export.spec.stages import Graph
    from effsam_export.spec.targets import Precision

pytestmark = pytest.mark.backend

LAYER = "node_of_hidden"


def quantized_graph(folder: Path, treatment: Treatment = "w8a8", kept: str = "") -> Graph:
    """The graph of the contract tests with named nodes, a treatment of its layer, and samples."""
    folder.mkdir(exist_ok=True)
    graph = write_graph(folder / "traced.onnx")
    model = onnx.load(graph.path)
    for node in model.graph.node:
        node.name = f"node_of_{node.output[0]}"
    onnx.save(model, graph.path)
    samples = folder / "samples"
    samples.mkdir()
    for i in (1, 2, 3):
        np.savez(samples / f"{i:04}.npz", allow_pickle=False, **feeds(i))
    asked = Quantization(
        recipe=Int8Recipe(scheme="w8a8"), samples=samples, treatments={LAYER: treatment}
    )
    return replace(graph, quantization=asked, fp32_nodes=(kept,) if kept else ())


def typed_of(folder: Path, treatment: Treatment = "w8a8", kept: str = "") -> trt_typed.TypedOnnx:
    graph = quantized_graph(folder, treatment, kept)
    (folder / "out").mkdir()
    return trt_typed.write(graph, "int8", folder / "out")


def test_weights_are_int8_and_scales_fp16(tmp_path: Path) -> None:
    typed = typed_of(tmp_path)
    assert typed.constants["int8"] >= WEIGHT.size
    assert "float32" not in typed.constants
    assert typed.int8
    opsets = {o.domain: o.version for o in onnx.load(typed.path).opset_import}
    assert opsets[""] == trt_typed.FP16_SCALES_OPSET


def test_activations_are_symmetric_and_outputs_have_no_pair(tmp_path: Path) -> None:
    model = onnx.load(typed_of(tmp_path).path)
    constants = {i.name: i for i in model.graph.initializer}
    (pair,) = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    point = onnx.numpy_helper.to_array(constants[pair.input[2]])
    assert point.dtype == np.int8
    assert not point.any()
    makers = {o: n.op_type for n in model.graph.node for o in n.output}
    (layer,) = [n for n in model.graph.node if n.op_type == "MatMul"]
    assert [makers[i] for i in layer.input] == ["DequantizeLinear", "DequantizeLinear"]


def test_everything_but_int8_is_fp16(tmp_path: Path) -> None:
    typed = typed_of(tmp_path)
    assert set(typed.float_ops) == {"float16"}
    ends = onnx.load(typed.path).graph
    kinds = {v.type.tensor_type.elem_type for v in (*ends.input, *ends.output)}
    assert kinds == {TensorProto.FLOAT}


def test_the_simulator_is_near_fp32(tmp_path: Path) -> None:
    session = OnnxSession(typed_of(tmp_path).path, "CPUExecutionProvider")
    given = feeds(2)
    found = session.run(given)
    for name, value in wanted(given).items():
        error = np.abs(found[name] - value).max() / np.abs(value).max()
        assert 1e-5 < error < 0.05, name


def test_weight_only_int8_keeps_activations(tmp_path: Path) -> None:
    typed = typed_of(tmp_path, "weight_only")
    # With a zero point for each channel.
    assert typed.constants["int8"] == WEIGHT.size + len(WEIGHT)
    assert typed.ops["DequantizeLinear"] == 1
    assert not typed.int8


def test_a_recipe_that_quantizes_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="the precision is int8, but the file holds"):
        typed_of(tmp_path, "keep_float")


def test_nodes_that_a_precision_recipe_keeps_stay_in_fp32(tmp_path: Path) -> None:
    typed = typed_of(tmp_path, kept="node_of_act")
    assert typed.fp32_nodes == {"node_of_act": "Tanh"}


def test_equal_samples_give_equal_bytes(tmp_path: Path) -> None:
    one, two = (typed_of(tmp_path / name).path.read_bytes() for name in ("one", "two"))
    assert one == two


# ------------------------------------------------------------------ the kit


def test_the_kit_expects_int8(tmp_path: Path) -> None:
    graph = quantized_graph(tmp_path, kept="node_of_act")
    out = tmp_path / "out"
    out.mkdir()
    target = profiles.load_target("jetson-orin", "int8")
    shapes = shape_ranges.ranges(graph.component, target.options)
    typed = trt_typed.write(graph, "int8", out)
    _, file = trt_kit.write(graph, target, typed, shapes, out)
    expected = json.loads(file.read_text("utf-8"))
    assert expected["precision"] == "int8"
    assert expected["nodes_by_op"]["QuantizeLinear"] == 1
    assert expected["constants_by_dtype"]["int8"] >= WEIGHT.size
    assert expected["fp32_islands"] == [{"name": "node_of_act", "op": "Tanh"}]


@pytest.mark.parametrize(
    ("ops", "outputs", "problems"),
    [
        ({"QuantizeLinear": 1}, ["int8", "float16"], []),
        (
            {"QuantizeLinear": 1},
            ["float16", "float16"],
            ["encoder: none of 2 layers has an INT8 output"],
        ),
        ({"DequantizeLinear": 1}, ["float16", "float16"], []),
    ],
)
def test_an_engine_without_int8_is_refused_on_the_device(
    ops: dict[str, int], outputs: list[str], problems: list[str]
) -> None:
    layers = [{"name": f"l{i}", "outputs": [dtype]} for i, dtype in enumerate(outputs)]
    expected = {"precision": "int8", "nodes_by_op": ops}
    assert verify_engine.layer_failures("encoder", layers, expected) == problems


# ------------------------------------------------------------------ engines


def compile_rtx(folder: Path, treatment: Treatment, precision: Precision = "int8") -> object:
    pytest.importorskip("tensorrt_rtx_bindings")
    from effsam_export.backends.tensorrt import rtx

    graph = quantized_graph(folder, treatment)
    out = folder / "out"
    out.mkdir()
    target = profiles.load_target("tensorrt-rtx", precision, {"compute_capabilities": "86"})
    return rtx.lower(graph, target, out)


def test_an_engine_computes_in_int8(tmp_path: Path) -> None:
    compile_rtx(tmp_path, "w8a8")
    document = json.loads((tmp_path / "out" / "decoder.layers.json").read_text("utf-8"))
    engine = document["decoder.engine"]
    assert engine["constants_by_dtype"]["int8"] >= WEIGHT.size
    assert "int8" in engine["outputs_by_dtype"]


def test_an_engine_with_weight_only_int8(tmp_path: Path) -> None:
    compile_rtx(tmp_path, "weight_only")
    document = json.loads((tmp_path / "out" / "decoder.layers.json").read_text("utf-8"))
    engine = document["decoder.engine"]
    assert engine["constants_by_dtype"]["int8"] == WEIGHT.size


def test_an_engine_without_int8_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    from effsam_export.backends.tensorrt import build as trt_build

    real = trt_build.layers_of

    def silent(messages: object) -> tuple[trt_build.Layer, ...]:
        return tuple(replace(n, outputs=("float16",)) for n in real(messages))

    monkeypatch.setattr(trt_build, "layers_of", silent)
    with pytest.raises(
        CheckFailed, match=r"the precision is int8, but none of .* has an INT8 output"
    ):
        compile_rtx(tmp_path, "w8a8")
