"""Linear layers as Gemm, the form in which ONNX Runtime computes them in INT8 with their bias.

Given: ``Add(MatMul(x, w), b)``, x of any rank, w and b constants.
Result: ``Reshape(Gemm(Reshape(x), w, b))``; the Gemm has the MatMul's name.

Of MatMul and Add ONNX Runtime makes a Gemm itself, and does so before it looks for Q/DQ pairs. The
quantizer has put none around the bias then, and so it computes the Gemm in FP32, on values that
were rounded to INT8 for nothing: as it did with all 28 such layers of MobileSAM's encoder (ONNX
Runtime 1.32, its optimized graph). Around a Gemm the quantizer puts all three pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.convenience import replace_nodes_and_values
from onnx_ir.passes.common import ShapeInferencePass

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import onnx

    from effsam_export.backends.onnx.activation_ranges import Range


def apply(
    model: onnx.ModelProto, layers: Collection[str], ranges: Mapping[str, Range]
) -> tuple[onnx.ModelProto, dict[str, Range]]:
    """The graph with these layers as Gemm, and the ranges with those of the Gemms' inputs.

    A layer stays as it is that is no MatMul by a matrix, whose product is read by anything but the
    addition of a bias, or whose sizes are not all known.

    Args:
        model: Not changed.
        layers: Names of nodes.
        ranges: Of activations; a Gemm's input has the range of what it is reshaped from.
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
    """Sizes of the tensors that nodes make, where all are known."""
    # On a copy: the graph that is written does not keep what was inferred.
    inferred = ShapeInferencePass(data_prop=False)(ir.from_proto(model)).model
    return {
        str(v.name): tuple(v.shape.numpy())
        for node in inferred.graph
        for v in node.outputs
        if v.shape is not None and v.shape.is_static()
    }


def _biased(product: ir.Node) -> tuple[ir.Node, ir.Value] | None:
    """The addition of a vector that alone reads a product, and the vector."""
    uses = product.outputs[0].uses()
    if len(uses) != 1 or product.outputs[0].is_graph_output():
        return None
    add = next(iter(uses)).node
    for value in add.inputs if add.op_type == "Add" else ():
        if value is not None and value.const_value is not None:
            return (add, value) if len(value.const_value.shape) == 1 else None
    return None


def _reshape(graph: ir.Graph, value: ir.Value, sizes: tuple[int, ...], name: str) -> ir.Node:
    """A reshape with its sizes in a constant of the graph."""
    shape = ir.Value(name=f"{name}_shape", const_value=ir.tensor(np.array(sizes, np.int64)))
    graph.register_initializer(shape)
    node = ir.node("Reshape", [value, shape], name=name)
    node.outputs[0].name = name
    return node
