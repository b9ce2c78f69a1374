"""Store the bias tables that are added to attention scores in INT8.

The converter expands a relative position bias to a value for every pair of tokens, which is large.
The error of a value is at most 1/510 of the range of its head's table. An error of d in a score
changes the softmax weight before normalisation by a factor of exp(d).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from effsam_export.backends.tflite import file as tflite_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from effsam_export.spec.tensors import Float32

DEQUANTIZE_PER_CHANNEL = 5
"""First version of DEQUANTIZE with a scale for each channel. Source: TensorFlow Lite,
`op_version.cc`."""
MIN_ELEMENTS = 1024
"""Minimum elements of a table to store in INT8."""
LOWEST, STEPS = -128, 255


def store_tables_in_int8(model: schema.ModelT) -> tuple[str, ...]:
    """Store the bias tables of a file in INT8 with a scale for each head, before a DEQUANTIZE.

    Args:
        model: Records of the file, changed in place.

    Returns:
        Names of the tables.
    """
    stored = []
    for graph in model.subgraphs:
        casts = []
        for index in _tables(model, graph):
            tensor = graph.tensors[index]
            shape = tflite_file.shape_of(tensor)
            values = np.frombuffer(model.buffers[tensor.buffer].data, np.float32).reshape(shape)
            casts.append(_cast(model, graph, index, values))
            stored.append(tensor.name.decode())
        graph.operators = [*casts, *graph.operators]
    return tuple(stored)


def _tables(model: schema.ModelT, graph: schema.SubGraphT) -> list[int]:
    """Return the large constants that are only added to the input of a SOFTMAX."""
    names = [tflite_file.operator_name(model, o) for o in graph.operators]
    readers: dict[int, set[str]] = {}
    for name, operator in zip(names, graph.operators, strict=True):
        for index in operator.inputs:
            readers.setdefault(index, set()).add(name)
    scores = {o.inputs[0] for n, o in zip(names, graph.operators, strict=True) if n == "SOFTMAX"}
    uses = Counter(t.buffer for t in graph.tensors)
    found = []
    for name, operator in zip(names, graph.operators, strict=True):
        if name != "ADD" or operator.outputs[0] not in scores:
            continue
        for index in operator.inputs:
            tensor = graph.tensors[index]
            data = model.buffers[tensor.buffer].data
            if data is None or data.size < MIN_ELEMENTS * tflite_file.SCALAR or index in found:
                continue
            only_added = readers[index] == {"ADD"} and uses[tensor.buffer] == 1
            if only_added and tflite_file.dtype_name(tensor) == "float32":
                found.append(index)
    return found


def _cast(
    model: schema.ModelT, graph: schema.SubGraphT, index: int, values: Float32
) -> schema.OperatorT:
    """Quantize a table in its buffer and return the DEQUANTIZE that gives the FP32 table."""
    tensor = graph.tensors[index]
    axis = next(i for i, n in enumerate(values.shape) if n > 1)
    rounded, scales, zeros = to_int8(values, axis)
    stored = schema.TensorT()
    stored.name, stored.shape = tensor.name + b"/int8", tensor.shape
    stored.type, stored.buffer = schema.TensorType.INT8, tensor.buffer
    stored.hasRank = tensor.hasRank
    stored.quantization = schema.QuantizationParametersT()
    stored.quantization.scale, stored.quantization.zeroPoint = scales, zeros
    stored.quantization.quantizedDimension = axis
    model.buffers[tensor.buffer].data = rounded.reshape(-1).view(np.uint8)
    tensor.buffer = 0
    graph.tensors.append(stored)
    operator = schema.OperatorT()
    operator.opcodeIndex = tflite_file.operator_code(
        model, tflite_file.DEQUANTIZE, DEQUANTIZE_PER_CHANNEL
    )
    operator.inputs, operator.outputs = [len(graph.tensors) - 1], [index]
    operator.builtinOptionsType = schema.BuiltinOptions.DequantizeOptions
    operator.builtinOptions = schema.DequantizeOptionsT()
    return operator


def to_int8(
    values: Float32, axis: int
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int64]]:
    """Quantize values to INT8; return integers, scales and zero points of each slice of an axis."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    low = np.minimum(values.min(others, keepdims=True), 0)
    high = np.maximum(values.max(others, keepdims=True), 0)
    scales = np.where(high > low, (high - low) / STEPS, 1).astype(np.float32)
    zeros = np.round(LOWEST - low / scales)
    rounded = np.clip(np.round(values / scales) + zeros, LOWEST, LOWEST + STEPS)
    return rounded.astype(np.int8), scales.reshape(-1), zeros.reshape(-1).astype(np.int64)
