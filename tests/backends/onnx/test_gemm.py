"""Linear layers as Gemm compute the same in INT8; other nodes are not rewritten."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from effsam_export.backends.onnx import gemm as onnx_gemm
from effsam_export.backends.onnx import quantize as onnx_qdq
from effsam_export.spec.int8 import Int8Recipe, Quantization

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

ROWS, INPUTS, OUTPUTS = 48, 64, 96
X = np.random.default_rng(2).standard_normal((2, ROWS, INPUTS)).astype(np.float32)


def network(*, bias_first: bool = False) -> onnx.ModelProto:
    """x 2x48x64 -> out 2x48x96: node `layer` by `w`, node `add` with `b`, a Relu."""
    generator = np.random.default_rng(0)
    arrays = {
        "w": generator.standard_normal((INPUTS, OUTPUTS)) / 8,
        "b": generator.standard_normal(OUTPUTS),
    }
    summed = ["b", "product"] if bias_first else ["product", "b"]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["product"], name="layer"),
            helper.make_node("Add", summed, ["sum"], name="add"),
            helper.make_node("Relu", ["sum"], ["out"], name="relu"),
        ],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(X.shape))],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [2, ROWS, OUTPUTS])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def answer(model: onnx.ModelProto, saved: Path | None = None) -> NDArray[np.float32]:
    """Return the output for `X`, and save ONNX Runtime's optimized graph."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if saved is not None:
        options.optimized_model_filepath = str(saved)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found: NDArray[np.float32] = session.run(None, {"x": X})[0]
    return found


def rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    found, _ = onnx_gemm.apply(model, {"layer"}, {"x": (-4.0, 4.0)})
    onnx.checker.check_model(found, full_check=True)
    return found


@pytest.mark.parametrize("bias_first", [False, True])
def test_a_layer_becomes_a_gemm(bias_first: bool) -> None:
    model = network(bias_first=bias_first)
    before = model.SerializeToString()
    found, ranges = onnx_gemm.apply(model, {"layer"}, {"x": (-4.0, 4.0)})
    onnx.checker.check_model(found, full_check=True)
    assert [n.op_type for n in found.graph.node] == ["Reshape", "Gemm", "Reshape", "Relu"]
    (gemm,) = [n for n in found.graph.node if n.op_type == "Gemm"]
    assert gemm.name == "layer"
    assert list(gemm.input)[1:] == ["w", "b"]
    assert ranges == {"x": (-4.0, 4.0), gemm.input[0]: (-4.0, 4.0)}
    assert [o.name for o in found.graph.output] == ["out"]
    np.testing.assert_allclose(answer(found), answer(model), rtol=1e-6, atol=1e-6)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("symbol", ["images", "25*images"])
def test_a_size_may_follow_from_the_number_of_images(symbol: str) -> None:
    model = network()
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = symbol
    found = rewritten(model)
    assert "Gemm" in {n.op_type for n in found.graph.node}
    np.testing.assert_allclose(answer(found), answer(model), rtol=1e-6, atol=1e-6)


def test_a_sum_that_is_an_output_keeps_its_name() -> None:
    model = network()
    del model.graph.node[-1]
    model.graph.output[0].name = "sum"
    found = rewritten(model)
    assert [o.name for o in found.graph.output] == ["sum"]
    np.testing.assert_allclose(answer(found), answer(model), rtol=1e-6, atol=1e-6)


def test_onnx_runtime_computes_it_in_int8(tmp_path: Path) -> None:
    np.savez(tmp_path / "0000.npz", x=X)
    quantization = Quantization(
        recipe=Int8Recipe(scheme="w8a8"), samples=tmp_path, treatments={"layer": "w8a8"}
    )
    model = onnx_qdq.apply(network(), quantization, tmp_path)
    found = answer(model, tmp_path / "optimized.onnx")
    kinds = {n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert "QGemm" in kinds
    assert not kinds & {"Gemm", "MatMul", "DequantizeLinear"}
    wanted = answer(network())
    assert 1e-4 < np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 0.02


def _read_twice(model: onnx.ModelProto) -> None:
    node = helper.make_node("Relu", ["product"], ["other"], name="other")
    model.graph.node.insert(1, node)
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, None))


def _an_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("product", TensorProto.FLOAT, None))


def _no_bias(model: onnx.ModelProto) -> None:
    del model.graph.node[1]
    model.graph.node[-1].input[0] = "product"


def _a_residual(model: onnx.ModelProto) -> None:
    square = numpy_helper.from_array(np.ones((INPUTS, INPUTS), np.float32), "w")
    model.graph.initializer[0].CopyFrom(square)
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = INPUTS
    model.graph.node[1].input[1] = "x"


def _a_matrix_is_added(model: onnx.ModelProto) -> None:
    matrix = numpy_helper.from_array(np.ones((ROWS, OUTPUTS), np.float32), "b")
    model.graph.initializer[1].CopyFrom(matrix)


def _a_matrix_for_each_image(model: onnx.ModelProto) -> None:
    weights = numpy_helper.from_array(np.ones((2, INPUTS, OUTPUTS), np.float32), "w")
    model.graph.initializer[0].CopyFrom(weights)


def _sizes_unknown(model: onnx.ModelProto) -> None:
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[1].dim_param = "rows"


def _two_sizes_unknown(model: onnx.ModelProto) -> None:
    for value in (model.graph.input[0], model.graph.output[0]):
        for dim, symbol in ((0, "images"), (1, "images + 1")):
            value.type.tensor_type.shape.dim[dim].dim_param = symbol


@pytest.mark.parametrize(
    "change",
    [
        _read_twice,
        _an_output,
        _no_bias,
        _a_residual,
        _a_matrix_is_added,
        _a_matrix_for_each_image,
        _sizes_unknown,
        _two_sizes_unknown,
    ],
    ids=lambda f: f.__name__[1:],
)
def test_layers_that_are_not_rewritten(change: Callable[[onnx.ModelProto], None]) -> None:
    model = network()
    change(model)
    found, ranges = onnx_gemm.apply(model, {"layer"}, {"x": (-4.0, 4.0)})
    assert [n.op_type for n in found.graph.node] == [n.op_type for n in model.graph.node]
    assert ranges == {"x": (-4.0, 4.0)}


@pytest.mark.parametrize(
    ("layers", "ranges"), [(set(), {"x": (-4.0, 4.0)}), ({"layer"}, {})], ids=["unasked", "range"]
)
def test_only_quantized_layers_are_rewritten(
    layers: set[str], ranges: dict[str, tuple[float, float]]
) -> None:
    found, left = onnx_gemm.apply(network(), layers, ranges)
    assert "Gemm" not in {n.op_type for n in found.graph.node}
    assert left == ranges
