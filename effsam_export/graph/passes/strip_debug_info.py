"""Remove source file names, stack traces and inferred shapes from a graph.

The exporter stores the Python stack of every node, with paths of the exporting machine. With them,
equal exports would differ. No runtime reads them.
"""

from __future__ import annotations

import onnx


def apply(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """Return a copy without metadata, doc strings and value_info, and a note of how many."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    removed = 0
    holders = [out, out.graph, *out.graph.node, *out.graph.initializer, *out.functions]
    holders += [*out.graph.input, *out.graph.output]
    for holder in holders:
        removed += len(holder.metadata_props) + bool(holder.doc_string)
        del holder.metadata_props[:]
        holder.ClearField("doc_string")
    removed += len(out.graph.value_info)
    del out.graph.value_info[:]
    return out, f"removed {removed} notes" if removed else "nothing to remove"
