"""Apply an INT8 recipe to an exported graph: the treatment of each node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.errors import UsageError
from effsam_export.precision.select import onnx_scope

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

    from effsam_export.spec.int8 import Int8Recipe, Treatment

WEIGHTED = ("Conv", "MatMul", "Gemm", "ConvTranspose")
OTHERS = ("MatMul", "Add", "Mul", "Softmax", "Sigmoid", "Concat")
"""Operators that `quantize_activation_products` adds: ONNX Runtime has INT8 versions of them."""


def treatments(model: onnx.ModelProto, recipe: Int8Recipe) -> dict[str, Treatment]:
    """Return the treatment of every node with a constant weight.

    The graph must still have the exporter's metadata.

    With `quantize_activation_products`, nodes without a weight that can be quantized get one too.

    Raises:
        UsageError: The recipe names modules without such nodes; all in one message.
    """
    ranks = {i.name: len(i.dims) for i in model.graph.initializer}
    scopes = {
        n.name: scope.modules
        for n in model.graph.node
        if has_treatment(n, ranks, quantize_activation_products=recipe.quantize_activation_products)
        and (scope := onnx_scope(n)) is not None
        # Only the normalisation of the image is outside all modules.
        and scope.modules[-1]
    }
    unmatched = recipe.unmatched_patterns(scopes.values())
    if unmatched:
        raise UsageError(
            f"the INT8 recipe names modules without a layer with weights: {', '.join(unmatched)}",
            hint="`effsam lint` prints the module names of the exported model",
        )
    by_node = {name: recipe.treatment(modules) for name, modules in scopes.items()}
    # OpenVINO names a node that computes a graph output after that output.
    outputs = {o.name for o in model.graph.output}
    for node in model.graph.node:
        if node.name in by_node and node.output[0] in outputs:
            by_node[node.output[0]] = by_node[node.name]
    return by_node


def layer_paths(model: onnx.ModelProto) -> frozenset[str]:
    """Return the paths of the innermost modules of all nodes with a constant weight.

    The graph must still have the exporter's metadata.
    """
    ranks = {i.name: len(i.dims) for i in model.graph.initializer}
    return frozenset(
        scope.modules[-1]
        for node in model.graph.node
        if has_treatment(node, ranks, quantize_activation_products=False)
        and (scope := onnx_scope(node)) is not None
    )


def has_treatment(
    node: onnx.NodeProto, ranks: Mapping[str, int], *, quantize_activation_products: bool
) -> bool:
    """Return whether a node gets a treatment.

    Args:
        node: Any node of the graph.
        ranks: Constant of the graph -> its number of dimensions.
        quantize_activation_products: As in the recipe.
    """
    rank = ranks.get(node.input[1]) if len(node.input) > 1 else None
    if node.op_type == "MatMul" and rank not in (None, 2):
        # One table for each row or head (ViT's relative positions): runtimes have INT8 products
        # only for one matrix, with a scale for each column.
        return False
    if node.op_type in WEIGHTED and rank is not None:
        return True
    return quantize_activation_products and node.op_type in OTHERS
