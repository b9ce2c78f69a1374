"""ONNX to ONNX: the rewrites every traced graph goes through, in order.

Each pass is a module with `apply(model) -> (model, note)`; the note says what was done, or why
nothing was. A new one is a file beside this one and a line in the tuple, with its reason.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import onnx

from effsam_export.graph import onnx_file
from effsam_export.graph.passes import regroup_gelu, share_constants, simplify, strip_debug_info
from effsam_export.precision.select import fp32_nodes
from effsam_export.quantize.treatments import treatments

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from effsam_export.spec.stages import Graph
    from effsam_export.spec.targets import TargetProfile

    Pass = Callable[[onnx.ModelProto], tuple[onnx.ModelProto, str]]


def pipeline(target: TargetProfile) -> tuple[tuple[str, Pass], ...]:
    """The passes for a target, in the order they run."""
    return (
        ("share_constants", share_constants.apply),
        # Before onnxsim, which might know the exporter's form by then and fold it otherwise.
        ("regroup_gelu", regroup_gelu.apply),
        *((("simplify", simplify.apply),) if target.simplify else ()),
        # Last: the passes before it leave notes and inferred shapes of their own.
        ("strip_debug_info", strip_debug_info.apply),
    )


def rewrite(graph: Graph, target: TargetProfile, out_dir: Path) -> Graph:
    """Run the passes on a traced graph and write the result into `out_dir`.

    What the graph's precision recipe keeps in FP32, and what INT8 does to each node, is looked up
    on the way, while the nodes still say which module they come from.
    """
    kept: tuple[str, ...] = ()
    quantized = graph.quantization
    model, notes = onnx.load(graph.path), []
    for name, apply in pipeline(target):
        if graph.recipe and name == "strip_debug_info":
            kept = fp32_nodes(model, graph.recipe)
        if quantized is not None and name == "strip_debug_info":
            quantized = replace(quantized, treatments=treatments(model, quantized.recipe))
        model, note = apply(model)
        notes.append(f"{name}: {note}")
    path = out_dir / f"{graph.component.name}.onnx"
    onnx_file.save(model, path)
    onnx_file.check(path)
    return replace(graph, path=path, rewrites=tuple(notes), fp32_nodes=kept, quantization=quantized)
