"""Given an FP32 graph; Result: the same graph computing in FP16, with FP32 inputs and outputs.

Precision is written into the graph: constants become FP16 and a cast stands behind each input and
before each output. The work is ONNX Runtime's own converter.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import onnx_ir as ir

from effsam_export import onnx_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx


def apply(model: onnx.ModelProto, *, keep: Sequence[str] = ()) -> onnx.ModelProto:
    """Return the FP16 form of a model; the given one is not changed.

    Args:
        model: In FP32.
        keep: Names of nodes that go on in FP32, between casts.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    # Inference serialises the model, past 2 GB in vain; it only serves casts in the middle.
    large = sum(len(t.raw_data) for t in model.graph.initializer) > onnx_file.MAX_INLINE_BYTES
    cast = convert_float_to_float16(
        deepcopy(model),
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
