"""Simplify a graph with onnxsim, unless that changes its inputs or outputs.

It only runs for targets whose profile sets `simplify`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def apply(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """Return the simplified model, or the given one with the reason."""
    import onnxsim

    simplified, same = onnxsim.simplify(model)
    if not same:
        return model, "refused: onnxsim's check gave different results"
    for kind in ("input", "output"):
        before, after = getattr(model.graph, kind), getattr(simplified.graph, kind)
        if [str(v.type) + v.name for v in before] != [str(v.type) + v.name for v in after]:
            return model, f"refused: onnxsim changed the {kind}s"
    return simplified, f"{len(model.graph.node)} to {len(simplified.graph.node)} nodes"
