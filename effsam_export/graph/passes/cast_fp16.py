"""Cast an FP32 graph to FP16, with FP32 inputs and outputs.

Constants become FP16, with a cast after each graph input and before each graph output. ONNX
Runtime's converter does the work. It also casts to FP16 and back between any two nodes that stay in
FP32, where values could overflow; these casts are removed here.
"""

from __future__ import annotations

import re
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from effsam_export.graph import onnx_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NARROW = re.compile(r"graph_input_cast\d+|.*_cast_to_fp16_node")
WIDEN = re.compile(r"graph_output_cast\d+|.*_cast_to_fp32_node")
"""Names that ONNX Runtime's converter gives its casts to FP16 and to FP32."""


def apply(model: onnx.ModelProto, *, keep: Sequence[str] = ()) -> onnx.ModelProto:
    """Return a model cast to FP16; the given one is not changed.

    Args:
        model: Model in FP32.
        keep: Names of nodes that stay in FP32, between casts.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    given = deepcopy(model)
    large = sum(len(t.raw_data) for t in model.graph.initializer) > onnx_file.MAX_INLINE_BYTES
    cast = convert_float_to_float16(
        _inferred(given) if large else given,
        keep_io_types=True,
        node_block_list=list(keep) or None,
        disable_shape_infer=large,
    )
    _without_detours(cast.graph)
    # The converter puts the casts of inputs after their users, which ONNX does not allow.
    graph = ir.from_proto(cast)
    graph.graph.sort()
    out: onnx.ModelProto = ir.to_proto(graph)
    # The converter's inferred shapes are not needed: inputs and outputs have theirs.
    del out.graph.value_info[:]
    return out


def _without_detours(graph: onnx.GraphProto) -> None:
    """Replace FP32 -> cast to FP16 -> cast to FP32 by the FP32 value.

    Only casts that the converter added are removed, by their names. An FP16 node still reads a
    rounded value, and casts of the model itself stay.
    """
    narrow = {n.output[0]: n for n in graph.node if _is_cast(n, NARROW)}
    inputs, ends = {i.name for i in graph.input}, {o.name for o in graph.output}
    same: dict[str, str] = {}
    for node in [n for n in graph.node if _is_cast(n, WIDEN) and n.input[0] in narrow]:
        value, result = narrow[node.input[0]].input[0], node.output[0]
        if result not in ends:
            same[result] = value
        elif value not in same and value not in inputs:
            # It is a graph output, so the value gets the output's name.
            same[value] = result
        else:
            node.CopyFrom(onnx.helper.make_node("Identity", [value], [result], name=node.name))
            continue
        graph.node.remove(node)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [_followed(name, same) for name in names]
    used = {name for n in graph.node for name in n.input}
    for node in [n for n in narrow.values() if n.output[0] not in used]:
        graph.node.remove(node)


def _is_cast(node: onnx.NodeProto, names: re.Pattern[str]) -> bool:
    return node.op_type == "Cast" and names.fullmatch(node.name) is not None


def _followed(name: str, same: Mapping[str, str]) -> str:
    while name in same:
        name = same[name]
    return name


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model above protobuf's 2 GB with inferred types; the given one is emptied.

    ONNX infers the types of such a model only from file to file.
    """
    with tempfile.TemporaryDirectory() as name:
        path, typed = Path(name) / "model.onnx", Path(name) / "typed.onnx"
        onnx_file.save(model, path)
        onnx.shape_inference.infer_shapes_path(str(path), str(typed))
        return onnx.load(typed)
