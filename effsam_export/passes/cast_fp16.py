"""Given an FP32 graph; Result: the same graph computing in FP16, with FP32 inputs and outputs.

Precision is written into the graph: constants become FP16 and a cast stands behind each input and
before each output. The work is ONNX Runtime's own converter.
"""

from __future__ import annotations

import onnx


def apply(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the FP16 form of a model; the given one is not changed."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    # Shape inference off: the dynamic dimensions are named already, and it would add value_info.
    out: onnx.ModelProto = convert_float_to_float16(copy, keep_io_types=True)
    del out.graph.value_info[:]
    return out
