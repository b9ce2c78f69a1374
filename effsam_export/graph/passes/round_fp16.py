"""Make a CPU round every result of a graph in FP16, to simulate FP16.

ONNX Runtime's CPU provider has FP16 kernels for few operators. It casts around the others and
removes casts between them, so that an FP16 graph mostly computes in FP32 and does not overflow.
Here each FP16 operation gets casts to FP32 before and a cast to FP16 after it. ONNX Runtime keeps
casts that a model contains (onnxruntime#17953). Sums are computed in FP32 and rounded once, as on
tensor cores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, helper

if TYPE_CHECKING:
    from collections.abc import Mapping

UNCHANGED = ("Cast", "Constant", "ConstantOfShape", "Shape")
"""Operators whose output dtype is set by an attribute or fixed."""


def apply(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model that rounds every FP16 result; the given one is not changed.

    Args:
        model: Model with FP16 tensors, of at most 2 GB.
    """
    out = onnx.ModelProto()
    out.CopyFrom(model)
    half = half_tensors(model)
    del out.graph.node[:]
    del out.graph.value_info[:]
    widened: dict[str, str] = {}
    for given in model.graph.node:
        if given.op_type in UNCHANGED or not half.intersection((*given.input, *given.output)):
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
    """Return the names of all FP16 tensors, by ONNX's type inference."""
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
