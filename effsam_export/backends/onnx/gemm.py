"""Rewrite linear layers as Gemm, which ONNX Runtime computes in INT8 together with its bias.

Given: ``Add(MatMul(x, w), b)``, x of any rank, w and b constants.
Result: ``Reshape(Gemm(Reshape(x), w, b))``; the Gemm has the MatMul's name.

ONNX Runtime fuses MatMul and Add to a Gemm before it looks for Q/DQ pairs. The quantizer inserts no
pair around the bias of an Add, so the fused Gemm computes in FP32 on rounded values. Around a Gemm,
the quantizer inserts all three pairs. Observed with ONNX Runtime 1.32.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.convenience import replace_nodes_and_values
from onnx_ir.passes.common import ShapeInferencePass

from effsam_export.spec.batches import ANY

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import onnx

    from effsam_export.backends.onnx.activation_ranges import Range


def apply(
    model: onnx.ModelProto, layers: Collection[str], ranges: Mapping[str, Range]
) -> tuple[onnx.ModelProto, dict[str, Range]]:
    """Return the graph with these layers as Gemm, and the ranges with those of the Gemms' inputs.

    A layer is rewritten only if it is a MatMul by a constant matrix, if only the addition of a bias
    reads its product, and if all sizes of its result are known but one that follows from the number
    of images.

    Args:
        model: Not changed.
        layers: Names of nodes.
        ranges: Ranges of activations by name. A Gemm's input gets the range of the MatMul's input.
    """
    known = _sizes(model)
    whole = ir.from_proto(model)
    found = dict(ranges)
    for product in [n for n in whole.graph if n.op_type == "MatMul" and n.name in layers]:
        x, weight = product.inputs
        added = _biased(product)
        measured = None if x is None else ranges.get(str(x.name))
        if added is None or x is None or measured is None or weight is None:
            continue
        add, bias = added
        sizes = known.get(str(add.outputs[0].name))
        matrix = weight.const_value
        if sizes is None or matrix is None or len(matrix.shape) != 2:
            continue
        into = _reshape(whole.graph, x, (-1, matrix.numpy().shape[0]), f"{product.name}_rows")
        gemm = ir.node("Gemm", [into.outputs[0], weight, bias], name=product.name)
        back = _reshape(whole.graph, gemm.outputs[0], sizes, f"{product.name}_back")
        gemm.outputs[0].name = f"{product.name}_sums"
        found[str(into.outputs[0].name)] = measured
        replace_nodes_and_values(
            whole.graph, add, [product, add], [into, gemm, back], add.outputs, back.outputs
        )
    return ir.to_proto(whole), found


def _sizes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes of node outputs, with -1 for the size that follows from a dynamic batch.

    Those with another unknown size are left out.
    """
    # On a copy, so that the inferred shapes are not written to the file.
    inferred = ShapeInferencePass(data_prop=False)(ir.from_proto(model)).model
    found = {}
    for node in inferred.graph:
        for v in node.outputs:
            sizes = [_size(dim) for dim in v.shape or ()]
            if v.shape is not None and None not in sizes and sizes.count(-1) <= 1:
                found[str(v.name)] = tuple(size for size in sizes if size is not None)
    return found


def _size(dim: int | ir.SymbolicDim) -> int | None:
    """Return a size; -1 if it follows from the number of images (`4*images`), else None."""
    if isinstance(dim, int):
        return dim
    return -1 if re.search(rf"\b{ANY}\b", dim.value or "") else None


def _biased(product: ir.Node) -> tuple[ir.Node, ir.Value] | None:
    """Return the Add that is the only reader of a product, and its bias; None for no such Add."""
    uses = product.outputs[0].uses()
    if len(uses) != 1 or product.outputs[0].is_graph_output():
        return None
    add = next(iter(uses)).node
    for value in add.inputs if add.op_type == "Add" else ():
        if value is not None and value.const_value is not None:
            return (add, value) if len(value.const_value.shape) == 1 else None
    return None


def _reshape(graph: ir.Graph, value: ir.Value, sizes: tuple[int, ...], name: str) -> ir.Node:
    """Return a Reshape node; its sizes become an initializer of the graph."""
    shape = ir.Value(name=f"{name}_shape", const_value=ir.tensor(np.array(sizes, np.int64)))
    graph.register_initializer(shape)
    node = ir.node("Reshape", [value, shape], name=name)
    node.outputs[0].name = name
    return node
