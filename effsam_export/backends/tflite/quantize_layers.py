"""Match the layers of a traced program to the operators of the .tflite file converted from it.

litert-torch keeps no module paths, so a layer is matched by its weights. The converter changes
their layout and may fold scales into them: one for each output channel, or one for each input
channel (of a LayerNorm before a linear layer). The directions of rows or of columns stay the same.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema

from effsam_export.backends.tflite import file as tflite_file
from effsam_export.errors import CheckFailed
from effsam_export.precision.select import fx_scope

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch.export import ExportedProgram
    from torch.fx import Node

    from effsam_export.spec.tensors import Float32

WEIGHTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
"""Operators of layers; their second input is the weights."""
LAYERS = ("linear", "conv2d", "conv_transpose2d")
COSINE_TOLERANCE = 1e-4
"""Maximum distance from 1 of the cosine of two rows or columns that differ by a scale."""
SHOWN = 5
"""Maximum number of layers that an error message lists."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer with weights.

    Attributes:
        modules: Paths of the modules that the layer was called in, outermost first.
        rows: Weights, a row for each output channel, with the other axes in TFLite's order.
    """

    modules: tuple[str, ...]
    rows: Float32


def layers_of_program(program: Path) -> tuple[Layer, ...]:
    """Return the layers of a traced program in the order of their calls."""
    traced = torch.export.load(program)
    layers = []
    for node in traced.graph.nodes:
        if node.op != "call_function" or (place := fx_scope(node)).op not in LAYERS:
            continue
        weight = _value(traced, node.args[1])
        if weight is None:
            continue
        layers.append(Layer(modules=place.modules, rows=_rows_of_torch(weight, place.op)))
    return tuple(layers)


def match_layers(model: schema.ModelT, layers: Sequence[Layer]) -> dict[int, Layer]:
    """Return the layer that each operator of a file computes, by the operator's index.

    The file has one graph. Operators with constants that are not weights of a layer are left out,
    for example an interpolation written as a matrix product.

    Raises:
        CheckFailed: A layer is not in the file.
    """
    (graph,) = model.subgraphs
    waiting, found = list(layers), {}
    for index, operator in enumerate(graph.operators):
        rows = weight_rows(model, operator)
        fits = (i for i, x in enumerate(waiting) if rows is not None and _same(x.rows, rows))
        first = next(fits, None)
        if first is not None:
            found[index] = waiting.pop(first)
    if waiting:
        names = ", ".join(f"`{x.modules[-1]}`" for x in waiting[:SHOWN])
        raise CheckFailed(
            f"the weights of {len(waiting)} of {len(layers)} layers were not found in the .tflite "
            f"file: {names}",
            hint="the converter changed them, so that an INT8 recipe cannot be applied; export in "
            "FP16 (`--fp16`)",
        )
    return found


def unfold_input_scales(model: schema.ModelT, found: Mapping[int, Layer]) -> None:
    """Undo the folding of input scales into the weights of linear layers.

    The scales of a LayerNorm differ by orders of magnitude. In the weights of the next layer they
    make a few values of each row large, and one INT8 scale for the row rounds the others to zero.
    A MUL applies the scales instead, so the result of the file does not change.

    Args:
        model: Records of the file, changed in place.
        found: Layers whose own weights are restored, by operator index.
    """
    (graph,) = model.subgraphs
    uses = Counter(graph.tensors[i].buffer for o in graph.operators for i in o.inputs if i >= 0)
    operators = []
    for index, operator in enumerate(graph.operators):
        layer = found.get(index)
        linear = tflite_file.operator_name(model, operator) == "FULLY_CONNECTED"
        # Weights that several operators share stay folded: each would need a MUL.
        if layer and linear and uses[graph.tensors[operator.inputs[1]].buffer] == 1:
            rows = weight_rows(model, operator)
            assert rows is not None
            if not _parallel(layer.rows, rows, 1):
                operators.append(_unfolded(model, operator, layer.rows, rows))
        operators.append(operator)
    graph.operators = operators


def _unfolded(
    model: schema.ModelT, operator: schema.OperatorT, own: Float32, folded: Float32
) -> schema.OperatorT:
    """Restore the weights of an operator and return the MUL that scales its input instead."""
    graph = model.subgraphs[0]
    weight, source = (graph.tensors[operator.inputs[i]] for i in (1, 0))
    squares = (own * own).sum(0)
    factors = (own * folded).sum(0) / np.where(squares > 0, squares, 1)
    model.buffers[weight.buffer].data = _bytes_of(own)
    result, constant = schema.TensorT(), schema.TensorT()
    result.name, constant.name = weight.name + b"/unfolded", weight.name + b"/factors"
    result.shape, constant.shape = list(source.shape), [len(factors)]
    result.type = constant.type = schema.TensorType.FLOAT32
    result.hasRank = constant.hasRank = source.hasRank
    buffer = schema.BufferT()
    buffer.data = _bytes_of(factors)
    model.buffers.append(buffer)
    constant.buffer = len(model.buffers) - 1
    graph.tensors += [result, constant]
    product = schema.OperatorT()
    product.opcodeIndex = tflite_file.operator_code(model, schema.BuiltinOperator.MUL, 1)
    product.inputs = [operator.inputs[0], len(graph.tensors) - 1]
    product.outputs = [len(graph.tensors) - 2]
    product.builtinOptionsType = schema.BuiltinOptions.MulOptions
    product.builtinOptions = schema.MulOptionsT()
    operator.inputs[0] = product.outputs[0]
    return product


def _bytes_of(values: Float32) -> NDArray[np.uint8]:
    return np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8)


def _same(a: Float32, b: Float32) -> bool:
    """Return whether two matrices differ at most by a scale of each row or of each column."""
    return a.shape == b.shape and any(_parallel(a, b, axis) for axis in (1, 0))


def _parallel(a: Float32, b: Float32, axis: int) -> bool:
    product = np.abs((a * b).sum(axis))
    lengths = np.linalg.norm(a, axis=axis) * np.linalg.norm(b, axis=axis)
    # A row of zeros matches every row.
    return bool(np.all(product >= (1 - COSINE_TOLERANCE) * lengths))


def _value(traced: ExportedProgram, node: Node) -> Float32 | None:
    """Return the value of a parameter, buffer or constant of a program; None for other nodes."""
    signature, name = traced.graph_signature, node.name
    for keys in (signature.inputs_to_parameters, signature.inputs_to_buffers):
        if name in keys:
            key = keys[name]
            tensor = traced.state_dict[key] if key in traced.state_dict else traced.constants[key]
            return np.asarray(tensor.detach().float().numpy())
    if name in signature.inputs_to_lifted_tensor_constants:
        tensor = traced.constants[signature.inputs_to_lifted_tensor_constants[name]]
        return np.asarray(tensor.detach().float().numpy())
    return None


def _rows_of_torch(weight: Float32, op: str) -> Float32:
    """Return weights as rows by output channel, with the input channels last."""
    if op == "conv_transpose2d":
        weight = weight.swapaxes(0, 1)
    if weight.ndim == 4:
        weight = weight.transpose(0, 2, 3, 1)
    return weight.reshape(len(weight), -1)


def weight_rows(model: schema.ModelT, operator: schema.OperatorT) -> Float32 | None:
    """Return an operator's weights as rows by output channel; None for no FP32 constant."""
    kind = tflite_file.operator_name(model, operator)
    if kind not in WEIGHTS:
        return None
    tensor = model.subgraphs[0].tensors[operator.inputs[1]]
    data = model.buffers[tensor.buffer].data
    if data is None or tflite_file.dtype_name(tensor) != "float32":
        return None
    weight = np.frombuffer(data, np.float32).reshape(tflite_file.shape_of(tensor))
    if kind == "DEPTHWISE_CONV_2D":
        # Its output channels are the last axis.
        weight = np.moveaxis(weight, -1, 0)
    return weight.reshape(len(weight), -1)
