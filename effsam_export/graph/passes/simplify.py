"""Given any graph; Result: onnxsim's simplification of it, if that left the interface alone.

Run only where a target profile says that it was measured to pay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def apply(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """Simplify, or return the model as it was with the reason."""
    import onnxsim

    simplified, same = onnxsim.simplify(model)
    if not same:
        return model, "refused: onnxsim's own check found different results"
    for kind in ("input", "output"):
        before, after = getattr(model.graph, kind), getattr(simplified.graph, kind)
        if [str(v.type) + v.name for v in before] != [str(v.type) + v.name for v in after]:
            return model, f"refused: onnxsim changed the {kind}s"
    return simplified, f"{len(model.graph.node)} to {len(simplified.graph.node)} nodes"
