"""Check which operators of a .tflite file LiteRT's GPU delegate supports.

An unsupported operator runs on the CPU, with copies to and from the GPU, and an app only notices
that it is slow. Source of all conditions: google-ai-edge/LiteRT,
`tflite/tools/versioning/gpu_compatibility.cc` (`CheckGpuDelegateCompatibility`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.backends.tflite.file import (
    add_reshape,
    dtype_name,
    operator_name,
    shape_of,
    shape_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ai_edge_litert import schema_py_generated as schema

# fmt: off
SUPPORTED = frozenset((
    "ABS", "ADD", "ADD_N", "ATAN2", "AVERAGE_POOL_2D", "BATCH_MATMUL", "BITCAST", "CAST", "CEIL",
    "CONCATENATION", "CONV_2D", "COS", "CUMSUM", "DEPTHWISE_CONV_2D", "DEPTH_TO_SPACE",
    "DEQUANTIZE", "DIV", "DYNAMIC_UPDATE_SLICE", "ELU", "EMBEDDING_LOOKUP", "EQUAL", "EXP", "FLOOR",
    "FLOOR_DIV", "FLOOR_MOD", "FULLY_CONNECTED", "GATHER", "GELU", "GREATER", "GREATER_EQUAL",
    "HARD_SWISH", "LEAKY_RELU", "LESS", "LESS_EQUAL", "LOG", "LOGICAL_AND", "LOGICAL_NOT",
    "LOGICAL_OR", "LOGISTIC", "MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM", "MIRROR_PAD", "MUL",
    "NEG", "NOT_EQUAL", "ONE_HOT", "PACK", "PAD", "PADV2", "POW", "PRELU", "REDUCE_ALL",
    "REDUCE_ANY", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "RELU", "RELU6", "RELU_N1_TO_1",
    "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2", "RIGHT_SHIFT", "ROUND",
    "RSQRT", "SELECT", "SELECT_V2", "SIGN", "SIN", "SLICE", "SOFTMAX", "SPACE_TO_DEPTH", "SPLIT",
    "SPLIT_V", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "STRIDED_SLICE", "SUB", "SUM", "TANH",
    "TILE", "TOPK_V2", "TRANSPOSE", "TRANSPOSE_CONV",
))
# fmt: on
"""Operators that the delegate supports, some only under the conditions checked below."""
SLICED_RANKS = (3, 4)
CASTS = frozenset({("bool", "float32"), ("float32", "bool"), ("int32", "float32")})


def align_ranks(model: schema.ModelT) -> None:
    """Give both operands of an ADD or MUL the same rank with a RESHAPE that adds leading ones.

    The converter removes leading ones that broadcasting restores, as in 1x4096x256 plus 4096x256.
    The delegate does not support that.
    """
    for graph in model.subgraphs:
        operators = []
        for operator in graph.operators:
            if operator_name(model, operator) in ("ADD", "MUL"):
                shapes = [shape_of(graph.tensors[i]) for i in operator.inputs]
                if not _broadcasts(shapes):
                    short = min((0, 1), key=lambda i: len(shapes[i]))
                    rank = len(shapes[1 - short])
                    shape = (1,) * (rank - len(shapes[short])) + shapes[short]
                    reshape = add_reshape(model, graph, operator.inputs[short], shape)
                    operator.inputs[short] = reshape.outputs[0]
                    operators.append(reshape)
            operators.append(operator)
        graph.operators = operators


def faults(model: schema.ModelT) -> list[str]:
    """Return a sentence for each operator of a file that the delegate does not support."""
    return [
        f"{why}: `{operator_name(model, operator)}` with output "
        f"`{graph.tensors[operator.outputs[0]].name.decode()}` of shape "
        f"{shape_text(graph.tensors[operator.outputs[0]])}"
        for graph in model.subgraphs
        for operator in graph.operators
        for why in _reasons(model, graph, operator)
    ]


def _reasons(
    model: schema.ModelT, graph: schema.SubGraphT, operator: schema.OperatorT
) -> Iterator[str]:
    """Yield the reasons why the delegate does not support an operator."""
    name = operator_name(model, operator)
    inputs = [graph.tensors[i] for i in operator.inputs if i >= 0]
    shapes = [shape_of(t) for t in inputs]
    if name not in SUPPORTED:
        yield "not supported on the GPU"
    elif name in ("ADD", "MUL"):
        if not _broadcasts(shapes):
            text = " and ".join("x".join(map(str, s)) for s in shapes)
            yield f"cannot broadcast {text} on the GPU"
    elif name in ("SLICE", "STRIDED_SLICE"):
        if len(shapes[0]) not in SLICED_RANKS:
            yield f"cannot slice rank {len(shapes[0])} on the GPU"
    elif name in ("PAD", "PADV2", "MIRROR_PAD"):
        if shapes[1][0] not in SLICED_RANKS:
            yield f"cannot pad rank {shapes[1][0]} on the GPU"
    elif name == "CAST":
        pair = (dtype_name(inputs[0]), dtype_name(graph.tensors[operator.outputs[0]]))
        if pair not in CASTS:
            yield f"cannot cast {pair[0]} to {pair[1]} on the GPU"


def _broadcasts(shapes: Sequence[tuple[int, ...]]) -> bool:
    """Return whether the delegate broadcasts two shapes; only different ranks >= 2 may fail."""
    longer, shorter = sorted(shapes, key=len, reverse=True)
    if len(longer) == len(shorter) or len(shorter) < 2:
        return True
    if len(longer) == 4 and len(shorter) == 3:
        return longer[0] == 1
    if len(longer) == 4 and len(shorter) == 2:
        one = longer[0] == 1 and shorter == (1, 1)
        return one or (longer[0], longer[3]) == shorter
    return False
