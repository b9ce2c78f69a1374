"""Quantize an ONNX graph to INT8 with ONNX Runtime's quantizer.

Given: Conv, MatMul or Gemm with constant FP32 weights.
Result for ONNX Runtime:

* INT8 weights and activations: DequantizeLinear on INT8 weights (symmetric, one scale per output
  channel) and a QuantizeLinear/DequantizeLinear pair (Q/DQ) on the input. A convolution also has a
  pair on its output, without which ONNX Runtime does not compute it in INT8.
* Weight-only INT8: INT8 weights, converted to FP32 by a Cast and a Mul.
* Other large constants are stored in FP16, before a Cast to FP32.

Result for TensorRT: weight-only INT8 is a DequantizeLinear on the weights. Activations are
symmetric, and outputs have no pairs. Other constants stay in FP32, because the whole graph is cast
to FP16 later.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from effsam_export.backends.onnx import activation_ranges, gemm
from effsam_export.quantize.treatments import OTHERS, WEIGHTED
from effsam_export.util.files import sha256_of, write_whole

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from effsam_export.backends.onnx.activation_ranges import Range
    from effsam_export.spec.int8 import Quantization
    from effsam_export.spec.tensors import Array

QUANTIZABLE = ("Conv", "MatMul", "Gemm")
"""Operators that ONNX Runtime computes in INT8. ConvTranspose has weight-only INT8 at most."""
MIN_FP16_ELEMENTS = 1024
"""Minimum elements of a constant to store in FP16: epsilons, scales and norms stay in FP32."""


def apply(
    model: onnx.ModelProto, quantization: Quantization, scratch: Path, *, for_tensorrt: bool = False
) -> onnx.ModelProto:
    """Measure activation ranges and return the quantized graph.

    Args:
        model: FP32 graph; not changed.
        quantization: Recipe, samples, and the treatment of each node.
        scratch: Directory for intermediate files.
        for_tensorrt: Write the form for TensorRT; else that for ONNX Runtime, with UINT8
            activations.
    """
    ranges = measured_ranges(model, quantization, scratch)
    return insert(model, quantization, ranges, for_tensorrt=for_tensorrt)


def measured_ranges(
    model: onnx.ModelProto, quantization: Quantization, scratch: Path
) -> Mapping[str, Range]:
    """Measure the activation ranges of a graph, or read what an earlier call kept of them.

    They are kept beside the samples: a search quantizes one graph in many ways.
    """
    tensors = activations_to_measure(model, quantization)
    if not tensors:
        return {}
    method = quantization.recipe.method
    samples = [sha256_of(path) for path in sorted(quantization.samples.glob("*.npz"))]
    digest = hashlib.sha256(repr((tensors, method, samples)).encode())
    for part in (*model.graph.node, *model.graph.initializer):
        digest.update(part.SerializeToString(deterministic=True))
    kept = quantization.samples / f"ranges-{digest.hexdigest()}.json"
    if kept.is_file():
        return {name: (low, high) for name, (low, high) in json.loads(kept.read_text()).items()}
    ranges = activation_ranges.measure(model, tensors, quantization.feeds(), method, scratch)
    write_whole(kept, json.dumps(ranges).encode())
    return ranges


def activations_to_measure(model: onnx.ModelProto, quantization: Quantization) -> list[str]:
    """Return the floating-point activations whose ranges are measured, in the graph's order.

    They include those of layers kept in floating point, if any layer has INT8 activations. ONNX
    Runtime fuses nodes differently when the outputs differ, which changes the last digit of a
    range. With a fixed set of outputs, an override in the recipe does not change other ranges.
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
    """Return the quantized graph for ranges that were measured before."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    if ranges and not (for_tensorrt or quantization.recipe.quantize_activation_products):
        # A recipe that quantizes sums puts pairs around each Add, and needs no Gemm.
        layers = {n for n, treatment in quantization.treatments.items() if treatment == "w8a8"}
        out, ranges = gemm.apply(out, layers, ranges)
    out = _with_pairs(out, quantization, ranges, for_tensorrt=for_tensorrt) if ranges else out
    scales = {n for node in out.graph.node if node.op_type in PAIRS for n in node.input[1:]}
    for node in list(out.graph.node):
        # Sums and products of activations may have a treatment too, but no weights.
        weighted = node.op_type in WEIGHTED
        if weighted and quantization.treatments.get(node.name) == "weight_only":
            scales.add(_store_in_int8(out.graph, node, dequantize=for_tensorrt))
    if not for_tensorrt:
        _store_in_fp16(out.graph, keep=scales)
    # The quantizer appends pairs after the nodes that use them, which ONNX does not allow.
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
    float_outputs = ["Conv", "MatMul", "Gemm"] if for_tensorrt else ["MatMul", "Gemm"]
    chosen: list[str] = []
    excluded: list[str] = []
    for node in model.graph.node:
        int8 = quantization.treatments.get(node.name) == "w8a8" and node.op_type in kinds
        int8 = int8 and all(name in ranges for name in node.input if name not in constants)
        (chosen if int8 else excluded).append(node.name)
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
        nodes_to_exclude=excluded,
        op_types_to_quantize=sorted(kinds),
        extra_options={
            "ActivationSymmetric": for_tensorrt,
            "WeightSymmetric": True,
            # TensorRT dequantizes only INT8, and a bias would be INT32.
            "QuantizeBias": not for_tensorrt,
            # A norm, GELU or residual sum reads the result in floating point.
            "OpTypesToExcludeOutputQuantization": [] if with_products else float_outputs,
        },
    )
    quantizer.quantize_model()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


def _store_in_int8(graph: onnx.GraphProto, node: onnx.NodeProto, *, dequantize: bool) -> str:
    """Replace a node's weight by an INT8 constant and nodes that dequantize it.

    ONNX Runtime folds Cast and Mul when it loads the file. It would compute a DequantizeLinear
    before a convolution at every call, and fuse one before a MatMul to MatMulNBits, which rounds
    activations too (ONNX Runtime 1.32).

    Args:
        graph: Changed.
        node: Node with a constant weight.
        dequantize: Use DequantizeLinear; else Cast and Mul.

    Returns:
        Name of the scale.
    """
    name = node.input[1]
    stored, scale_name, wide = f"{name}_int8", f"{name}_scale", f"{name}_wide"
    weight = next((i for i in graph.initializer if i.name == name), None)
    if weight is None:
        # An earlier layer shares the weight, which is replaced already.
        return scale_name
    values: Array = numpy_helper.to_array(weight)
    axis = output_axis(node, values.ndim)
    others = tuple(i for i in range(values.ndim) if i != axis)
    scale = (np.abs(values).max(axis=others, keepdims=True) / np.float32(127)).astype(np.float32)
    scale[scale == 0] = 1
    rounded = np.round(values / scale).astype(np.int8)
    if dequantize:
        kind, scale = "DequantizeLinear", scale.reshape(-1)
        # With `session.x64quantprecision` ONNX Runtime converts the weights to UINT8, and then
        # requires a zero point for each channel.
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
    for new in reversed(nodes):
        graph.node.insert(0, new)
    return scale_name


def output_axis(node: onnx.NodeProto, rank: int) -> int:
    """Return the axis of a weight that indexes output channels."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Conv" or (node.op_type == "Gemm" and attributes.get("transB")):
        return 0
    if node.op_type == "ConvTranspose":
        # With groups, an index of this axis is one channel of every group: they share a scale.
        return 1
    return rank - 1


def _store_in_fp16(graph: onnx.GraphProto, *, keep: Collection[str]) -> None:
    """Store large FP32 constants in FP16 before a Cast, which a runtime folds when it loads."""
    for tensor in list(graph.initializer):
        size = int(np.prod(tensor.dims, dtype=np.int64))
        if tensor.data_type != TensorProto.FLOAT or size < MIN_FP16_ELEMENTS or tensor.name in keep:
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
