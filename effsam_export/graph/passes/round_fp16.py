"""Given a graph typed in FP16; Result: one in which a CPU rounds as the graph says.

ONNX Runtime's CPU provider has FP16 kernels for few operators. It casts around the others and takes
those casts out again wherever two meet, so that a graph typed in FP16 computes in FP32 from end to
end: 300 * 300 is 90,000, and the square root of it 300. Here each FP16 operation reads its inputs
through a cast to FP32 and gives its result through one to FP16; casts that a model brings along are
left in (onnxruntime#17953). Sums are taken in FP32 and rounded once, as tensor cores do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, helper

if TYPE_CHECKING:
    from collections.abc import Mapping

AS_THEY_ARE = ("Cast", "Constant", "ConstantOfShape", "Shape")
"""Operators whose own attribute says what they give."""


def apply(model: onnx.ModelProto) -> onnx.ModelProto:
    """The rounding form; the given model is not changed.

    Args:
        model: Typed, of at most 2 GB.
    """
    out = onnx.ModelProto()
    out.CopyFrom(model)
    half = half_tensors(model)
    del out.graph.node[:]
    del out.graph.value_info[:]
    widened: dict[str, str] = {}
    for given in model.graph.node:
        if given.op_type in AS_THEY_ARE or not half.intersection((*given.input, *given.output)):
            out.graph.node.append(given)
            continue
        node = onnx.NodeProto()
        node.CopyFrom(given)
        for name in dict.fromkeys(n for n in given.input if n in half):
            if name not in widened:
                widened[name] = f"{name}__wide"
                out.graph.node.append(_cast(name, widened[name], TensorProto.FLOAT))
        node.input[:] = [widened.get(n, n) if n in half else n for n in given.input]
        node.output[:] = [f"{n}__exact" if n in half else n for n in given.output]
        out.graph.node.append(node)
        for name in given.output:
            if name in half:
                out.graph.node.append(_cast(f"{name}__exact", name, TensorProto.FLOAT16))
    return out


def half_tensors(model: onnx.ModelProto) -> frozenset[str]:
    """Names of all tensors in FP16, by ONNX's own inference."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    kinds: Mapping[str, int] = {
        **{
            v.name: v.type.tensor_type.elem_type
            for v in (*inferred.input, *inferred.value_info, *inferred.output)
        },
        **{t.name: t.data_type for t in inferred.initializer},
    }
    return frozenset(name for name, kind in kinds.items() if kind == TensorProto.FLOAT16)


def _cast(given: str, result: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [given], [result], name=f"{result}__cast", to=to)
