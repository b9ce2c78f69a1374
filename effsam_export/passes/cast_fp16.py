"""Given an FP32 graph; Result: the same graph computing in FP16, with FP32 inputs and outputs.

Precision is written into the graph: constants become FP16 and a cast stands behind each input and
before each output. The work is ONNX Runtime's own converter.
"""

from __future__ import annotations

import tempfile
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from effsam_export import onnx_file

if TYPE_CHECKING:
    from collections.abc import Sequence


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
    # The converter appends the inputs' casts behind the nodes that use them, against the standard.
    graph = ir.from_proto(cast)
    graph.graph.sort()
    out: onnx.ModelProto = ir.to_proto(graph)
    # Inferred on the way; the dynamic dimensions are named in the inputs and outputs already.
    del out.graph.value_info[:]
    return out


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model past protobuf's 2 GB with its types inferred, which goes by files only; emptied."""
    with tempfile.TemporaryDirectory() as name:
        path, typed = Path(name) / "model.onnx", Path(name) / "typed.onnx"
        onnx_file.save(model, path)
        onnx.shape_inference.infer_shapes_path(str(path), str(typed))
        return onnx.load(typed)
