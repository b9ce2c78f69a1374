"""An INT8 recipe -> the treatment of each node of an exported graph."""

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
    """Treatment of every node with a constant weight, while the exporter's notes are there.

    With `quantize_activation_products`, nodes without a weight that can be quantized get one too.

    Raises:
        UsageError: Modules of the recipe that hold no such node, all in one message.
    """
    ranks = {i.name: len(i.dims) for i in model.graph.initializer}
    places = {
        n.name: place.modules
        for n in model.graph.node
        if takes(n, ranks, quantize_activation_products=recipe.quantize_activation_products)
        and (place := onnx_scope(n)) is not None
        # Outside every module there is nothing but the normalisation of the image.
        and place.modules[-1]
    }
    idle = recipe.unmatched_patterns(places.values())
    if idle:
        raise UsageError(
            f"the INT8 recipe names modules that hold no layer with weights: {', '.join(idle)}",
            hint="`effsam bisect` and `effsam lint` name modules of the export form",
        )
    found = {name: recipe.treatment(modules) for name, modules in places.items()}
    # OpenVINO calls a node that gives an output of the graph by the name of that output.
    outputs = {o.name for o in model.graph.output}
    for node in model.graph.node:
        if node.name in found and node.output[0] in outputs:
            found[node.output[0]] = found[node.name]
    return found


def takes(
    node: onnx.NodeProto, ranks: Mapping[str, int], *, quantize_activation_products: bool
) -> bool:
    """Whether a node has a treatment.

    Args:
        node: Any of the graph.
        ranks: Constant of the graph -> number of its dimensions.
        quantize_activation_products: Nodes without weights have one too.
    """
    rank = ranks.get(node.input[1]) if len(node.input) > 1 else None
    if node.op_type == "MatMul" and rank not in (None, 2):
        # A table for each row or head (ViT's relative positions): runtimes have INT8 products of
        # one matrix, with a scale for each of its columns.
        return False
    if node.op_type in WEIGHTED and rank is not None:
        return True
    return quantize_activation_products and node.op_type in OTHERS
