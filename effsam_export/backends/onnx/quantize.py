"""INT8 in an ONNX graph, by ONNX Runtime's own quantizer: Q/DQ pairs around layers with weights.

Given: Conv / MatMul / Gemm with constant weights, in FP32.
Result: for `w8a8`, DequantizeLinear on INT8 weights (one scale a channel, symmetric) and a Quantize
and Dequantize pair on the input (and, for a convolution, the output: ONNX Runtime computes it in
INT8 only so); for `weight_only`, INT8 weights behind a Cast and a Mul; other constants are in FP16
behind a Cast. For TensorRT: `weight_only` is DequantizeLinear on the weights, activations are
symmetric, outputs have no pairs (a layer writes what the next one reads), and constants stay in
FP32, for the cast of the whole graph that follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from effsam_export.backends.onnx import activation_ranges, gemm
from effsam_export.quantize.treatments import OTHERS, WEIGHTED

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from effsam_export.backends.onnx.activation_ranges import Range
    from effsam_export.spec.int8 import Quantization
    from effsam_export.spec.tensors import Array

QUANTIZABLE = ("Conv", "MatMul", "Gemm")
"""What ONNX Runtime computes in INT8; a transposed convolution gets INT8 weights at most."""
SMALLEST_HALVED = 1024
"""Constants below so many elements stay in FP32: epsilons, scales, a norm's weights."""


def apply(
    model: onnx.ModelProto, quantization: Quantization, scratch: Path, *, for_tensorrt: bool = False
) -> onnx.ModelProto:
    """The quantized graph; the given one is not changed.

    Args:
        model: In FP32.
        quantization: Recipe, samples, and the treatment of each node.
        scratch: Folder for intermediate files.
        for_tensorrt: In the form TensorRT takes; else in ONNX Runtime's, activations in UINT8.
    """
    ranges = activation_ranges.measure(
        model,
        wanted_tensors(model, quantization),
        quantization.feeds(),
        quantization.recipe.method,
        scratch,
    )
    return insert(model, quantization, ranges, for_tensorrt=for_tensorrt)


def wanted_tensors(model: onnx.ModelProto, quantization: Quantization) -> list[str]:
    """Activations whose ranges are measured, in the graph's order; integers have none.

    Those of layers that float too, where any other's are needed: asked for other tensors, ONNX
    Runtime fuses otherwise and a range has another last digit, from which masks of a model that is
    quantized whole were lost. So a recipe with one exception more has the same ranges.
    """
    if "w8a8" not in quantization.treatments.values():
        return []
    constants = {i.name for i in model.graph.initializer}
    if quantization.recipe.quantize_activation_products:
        inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
        constants |= {v.name for v in inferred if v.type.tensor_type.elem_type != TensorProto.FLOAT}
    found: dict[str, None] = {}
    for node in model.graph.node:
        if node.name in quantization.treatments:
            for name in (*node.input, *node.output):
                if name and name not in constants:
                    found[name] = None
    return list(found)


def insert(
    model: onnx.ModelProto,
    quantization: Quantization,
    ranges: Mapping[str, Range],
    *,
    for_tensorrt: bool = False,
) -> onnx.ModelProto:
    """The graph with Q/DQ pairs for ranges that were measured before."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    if ranges and not (for_tensorrt or quantization.recipe.quantize_activation_products):
        # With `quantize_activation_products` sums are quantized by themselves.
        layers = {n for n, treatment in quantization.treatments.items() if treatment == "w8a8"}
        out, ranges = gemm.apply(out, layers, ranges)
    out = _with_pairs(out, quantization, ranges, for_tensorrt=for_tensorrt) if ranges else out
    scales = {n for node in out.graph.node if node.op_type in PAIRS for n in node.input[1:]}
    for node in list(out.graph.node):
        # With `quantize_activation_products` sums and products have a treatment
        # too, and no weights to store.
        weighted = node.op_type in WEIGHTED
        if weighted and quantization.treatments.get(node.name) == "weight_only":
            scales.add(_store_in_int8(out.graph, node, dequantize=for_tensorrt))
    if not for_tensorrt:
        _halve(out.graph, besides=scales)
    # The quantizer appends pairs behind the nodes that use them, against the standard.
    whole = ir.from_proto(out)
    whole.graph.sort()
    done: onnx.ModelProto = ir.to_proto(whole)
    return done


def _with_pairs(
    model: onnx.ModelProto,
    quantization: Quantization,
    ranges: Mapping[str, Range],
    *,
    for_tensorrt: bool,
) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    constants = {i.name for i in model.graph.initializer}
    with_products = quantization.recipe.quantize_activation_products
    kinds = {*QUANTIZABLE, *(OTHERS if with_products else ())}
    floating = ["Conv", "MatMul", "Gemm"] if for_tensorrt else ["MatMul", "Gemm"]
    chosen: list[str] = []
    kept: list[str] = []
    for node in model.graph.node:
        right = quantization.treatments.get(node.name) == "w8a8" and node.op_type in kinds
        right = right and all(name in ranges for name in node.input if name not in constants)
        (chosen if right else kept).append(node.name)
    data: dict[str, Any] = {
        name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
        for name, (low, high) in ranges.items()
    }
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if for_tensorrt else QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=chosen,
        nodes_to_exclude=kept,
        op_types_to_quantize=sorted(kinds),
        extra_options={
            "ActivationSymmetric": for_tensorrt,
            "WeightSymmetric": True,
            # TensorRT dequantizes nothing but INT8, and a bias would be INT32.
            "QuantizeBias": not for_tensorrt,
            # Its result is wanted in floating point: a norm, GELU or a residual comes next.
            "OpTypesToExcludeOutputQuantization": [] if with_products else floating,
        },
    )
    quantizer.quantize_model()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


def _store_in_int8(graph: onnx.GraphProto, node: onnx.NodeProto, *, dequantize: bool) -> str:
    """Put INT8 and what makes floats of it in the place of a node's weight; the scale's name.

    Args:
        graph: Changed.
        node: With a constant weight.
        dequantize: By DequantizeLinear; else by Cast and Mul, which ONNX Runtime folds while it
            loads. DequantizeLinear it computes again at every call in front of a convolution, and
            makes MatMulNBits of it in front of a matrix, which rounds activations too and takes
            1.2 times as long as the same product in FP32 (ONNX Runtime 1.32, MobileSAM).
    """
    name = node.input[1]
    stored, scale_name, wide = f"{name}_int8", f"{name}_scale", f"{name}_wide"
    weight = next((i for i in graph.initializer if i.name == name), None)
    if weight is None:
        # Shared with a layer that came first.
        return scale_name
    values: Array = numpy_helper.to_array(weight)
    axis = output_axis(node, values.ndim)
    others = tuple(i for i in range(values.ndim) if i != axis)
    scale = (np.abs(values).max(axis=others, keepdims=True) / np.float32(127)).astype(np.float32)
    scale[scale == 0] = 1
    rounded = np.round(values / scale).astype(np.int8)
    if dequantize:
        kind, scale = "DequantizeLinear", scale.reshape(-1)
        # Without it ONNX Runtime fails where it is asked for exact sums: of such weights it makes
        # UINT8 with one zero point for all channels, and then wants one for each.
        zeros = numpy_helper.from_array(np.zeros(scale.shape, np.int8), f"{name}_zero_point")
        graph.initializer.append(zeros)
        inputs = [stored, scale_name, zeros.name]
        nodes = [helper.make_node(kind, inputs, [name], name=f"{name}_{kind}", axis=axis)]
    else:
        nodes = [
            helper.make_node("Cast", [stored], [wide], name=f"{name}_Cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", [wide, scale_name], [name], name=f"{name}_Mul"),
        ]
    graph.initializer.remove(weight)
    graph.initializer.append(numpy_helper.from_array(rounded, stored))
    graph.initializer.append(numpy_helper.from_array(scale, scale_name))
    for made in reversed(nodes):
        graph.node.insert(0, made)
    return scale_name


def output_axis(node: onnx.NodeProto, rank: int) -> int:
    """Axis of a weight that counts output channels."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Conv" or (node.op_type == "Gemm" and attributes.get("transB")):
        return 0
    if node.op_type == "ConvTranspose":
        # With groups, a channel of this axis is one in every group: still one scale a channel.
        return 1
    return rank - 1


def _halve(graph: onnx.GraphProto, *, besides: Collection[str]) -> None:
    """Store large FP32 constants in FP16, behind a Cast; a runtime folds it while it loads."""
    for tensor in list(graph.initializer):
        size = int(np.prod(tensor.dims, dtype=np.int64))
        if (
            tensor.data_type != TensorProto.FLOAT
            or size < SMALLEST_HALVED
            or tensor.name in besides
        ):
            continue
        half = numpy_helper.to_array(tensor).astype(np.float16)
        if not np.isfinite(half).all():
            continue
        name = tensor.name
        graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(half, f"{name}_fp16"))
        graph.node.insert(
            0,
            helper.make_node(
                "Cast", [f"{name}_fp16"], [name], name=f"{name}_Cast", to=TensorProto.FLOAT
            ),
        )


PAIRS = ("QuantizeLinear", "DequantizeLinear")
