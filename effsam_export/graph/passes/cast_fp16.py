"""Given an FP32 graph; Result: the same graph computing in FP16, with FP32 inputs and outputs.

Precision is written into the graph: constants become FP16 and a cast stands behind each input and
before each output. The work is ONNX Runtime's own converter; what it does to nodes that stay in
FP32 is put right: it casts to FP16 and back between any two of them, and what overflows there is
lost all the same.
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
"""What ONNX Runtime's converter calls its casts to FP16 and to FP32."""


def apply(model: onnx.ModelProto, *, keep: Sequence[str] = ()) -> onnx.ModelProto:
    """Return the FP16 form of a model; the given one is not changed.

    Args:
        model: In FP32.
        keep: Names of nodes that go on in FP32, between casts.
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
    # The converter appends the inputs' casts behind the nodes that use them, against the standard.
    graph = ir.from_proto(cast)
    graph.graph.sort()
    out: onnx.ModelProto = ir.to_proto(graph)
    # Inferred on the way; the dynamic dimensions are named in the inputs and outputs already.
    del out.graph.value_info[:]
    return out


def _without_detours(graph: onnx.GraphProto) -> None:
    """Given FP32 -> Cast to FP16 -> Cast to FP32; Result: the value itself, no idle cast.

    Only where the converter made both casts, told by their names: what an FP16 node reads is
    rounded, as it has to be, and a cast of the model's own has other types before it.
    """
    narrow = {n.output[0]: n for n in graph.node if _made(n, NARROW)}
    inputs, ends = {i.name for i in graph.input}, {o.name for o in graph.output}
    same: dict[str, str] = {}
    for node in [n for n in graph.node if _made(n, WIDEN) and n.input[0] in narrow]:
        value, result = narrow[node.input[0]].input[0], node.output[0]
        if result not in ends:
            same[result] = value
        elif value not in same and value not in inputs:
            # The graph gives it by this name, so the value takes it.
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


def _made(node: onnx.NodeProto, names: re.Pattern[str]) -> bool:
    return node.op_type == "Cast" and names.fullmatch(node.name) is not None


def _followed(name: str, same: Mapping[str, str]) -> str:
    while name in same:
        name = same[name]
    return name


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model past protobuf's 2 GB with its types inferred, which goes by files only; emptied."""
    with tempfile.TemporaryDirectory() as name:
        path, typed = Path(name) / "model.onnx", Path(name) / "typed.onnx"
        onnx_file.save(model, path)
        onnx.shape_inference.infer_shapes_path(str(path), str(typed))
        return onnx.load(typed)
