"""The layers of a traced program found again in the .tflite file that was made of it.

litert-torch keeps no module paths: every tensor is called after the module that was handed to it.
So a layer is known by its weights. The converter lays them out anew, and may fold a factor into
them: of each output channel, or of each input (LayerNorm's, before a linear layer). Either leaves
the directions of the rows or those of the columns.
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
"""Operators of layers; the second input of each holds the weights."""
LAYERS = ("linear", "conv2d", "conv_transpose2d")
CLOSE = 1e-4
"""How far from 1 the cosine of two rows, or columns, may be that only a factor tells apart."""
SHOWN = 5
"""Layers that a refusal names."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer with weights.

    Attributes:
        modules: Paths of the modules it was called in, outermost first.
        rows: Its weights, a row for each output channel, the rest in TFLite's order.
    """

    modules: tuple[str, ...]
    rows: Float32


def of_program(program: Path) -> tuple[Layer, ...]:
    """The layers of a traced program, in the order they are called."""
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


def find(model: schema.ModelT, layers: Sequence[Layer]) -> dict[int, Layer]:
    """Operators of a file with one graph, by index -> the layer that each of them computes.

    An operator with constant weights that are no layer's (an interpolation as a matrix product) is
    left out.

    Raises:
        CheckFailed: A layer is not in the file.
    """
    (graph,) = model.subgraphs
    waiting, found = list(layers), {}
    for index, operator in enumerate(graph.operators):
        rows = rows_of_file(model, operator)
        fits = (i for i, x in enumerate(waiting) if rows is not None and _same(x.rows, rows))
        first = next(fits, None)
        if first is not None:
            found[index] = waiting.pop(first)
    if waiting:
        names = ", ".join(f"`{x.modules[-1]}`" for x in waiting[:SHOWN])
        raise CheckFailed(
            f"{len(waiting)} of {len(layers)} layers with weights are not in the .tflite file as "
            f"the program has them: {names}",
            hint="the converter rewrote them, so INT8 cannot tell which is which; export in FP16 "
            "(`--fp16`)",
        )
    return found


def unfold(model: schema.ModelT, found: Mapping[int, Layer]) -> None:
    """Take factors of the inputs out of the weights of linear layers; the file computes the same.

    LayerNorm's factors differ by orders of magnitude. Folded into the next layer they fill each row
    with a few large values, and one INT8 scale for the row rounds the rest away.

    Args:
        model: The file's records, changed in place.
        found: The layers to give their own weights back, by operator.
    """
    (graph,) = model.subgraphs
    uses = Counter(graph.tensors[i].buffer for o in graph.operators for i in o.inputs if i >= 0)
    operators = []
    for index, operator in enumerate(graph.operators):
        layer = found.get(index)
        linear = tflite_file.operator_name(model, operator) == "FULLY_CONNECTED"
        # Weights that several operators share stay: each would need the product.
        if layer and linear and uses[graph.tensors[operator.inputs[1]].buffer] == 1:
            rows = rows_of_file(model, operator)
            assert rows is not None
            if not _parallel(layer.rows, rows, 1):
                operators.append(_unfolded(model, operator, layer.rows, rows))
        operators.append(operator)
    graph.operators = operators


def _unfolded(
    model: schema.ModelT, operator: schema.OperatorT, own: Float32, folded: Float32
) -> schema.OperatorT:
    """The product that does beforehand what the weights no longer do, which are set here."""
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
    """Whether two matrices differ by a factor of each row, or of each column, at most."""
    return a.shape == b.shape and any(_parallel(a, b, axis) for axis in (1, 0))


def _parallel(a: Float32, b: Float32, axis: int) -> bool:
    product = np.abs((a * b).sum(axis))
    lengths = np.linalg.norm(a, axis=axis) * np.linalg.norm(b, axis=axis)
    # A row of zeros fits every other.
    return bool(np.all(product >= (1 - CLOSE) * lengths))


def _value(traced: ExportedProgram, node: Node) -> Float32 | None:
    """A parameter, a buffer or a constant of a program; None for what it computes."""
    signature, name = traced.graph_signature, node.name
    for kept in (signature.inputs_to_parameters, signature.inputs_to_buffers):
        if name in kept:
            key = kept[name]
            tensor = traced.state_dict[key] if key in traced.state_dict else traced.constants[key]
            return np.asarray(tensor.detach().float().numpy())
    if name in signature.inputs_to_lifted_tensor_constants:
        tensor = traced.constants[signature.inputs_to_lifted_tensor_constants[name]]
        return np.asarray(tensor.detach().float().numpy())
    return None


def _rows_of_torch(weight: Float32, op: str) -> Float32:
    """Weights by output channel, the channels of the input last."""
    if op == "conv_transpose2d":
        weight = weight.swapaxes(0, 1)
    if weight.ndim == 4:
        weight = weight.transpose(0, 2, 3, 1)
    return weight.reshape(len(weight), -1)


def rows_of_file(model: schema.ModelT, operator: schema.OperatorT) -> Float32 | None:
    """The same of an operator, or None where it has no constant FP32 weights."""
    kind = tflite_file.operator_name(model, operator)
    if kind not in WEIGHTS:
        return None
    tensor = model.subgraphs[0].tensors[operator.inputs[1]]
    data = model.buffers[tensor.buffer].data
    if data is None or tflite_file.dtype_name(tensor) != "float32":
        return None
    weight = np.frombuffer(data, np.float32).reshape(tflite_file.shape_of(tensor))
    if kind == "DEPTHWISE_CONV_2D":
        # Its kernels lie along the last axis.
        weight = np.moveaxis(weight, -1, 0)
    return weight.reshape(len(weight), -1)
