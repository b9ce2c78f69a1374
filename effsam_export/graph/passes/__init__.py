"""ONNX graph rewrites that every traced graph goes through, in order.

Each pass is a module with `apply(model) -> (model, note)`. The note says what was changed, or why
nothing was. To add a pass, add a module here and a line in `pipeline`, with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """A rewritten graph whose nodes still carry the exporter's metadata.

    Attributes:
        graph: The traced graph, with what the metadata selects: the nodes that stay in FP32, and
            the INT8 treatment of each node.
        model: The rewritten ONNX model. Its metadata names the module that each node comes from.
    """

    graph: Graph
    model: onnx.ModelProto


def pipeline(target: TargetProfile) -> tuple[tuple[str, Pass], ...]:
    """Return the passes for a target, in the order they run."""
    return (
        ("share_constants", share_constants.apply),
        # Before onnxsim, which may fold the exporter's form of GELU in another way.
        ("regroup_gelu", regroup_gelu.apply),
        *((("simplify", simplify.apply),) if target.simplify else ()),
        # Last: the passes before it add metadata and inferred shapes.
        ("strip_debug_info", strip_debug_info.apply),
    )


def rewrite(graph: Graph, target: TargetProfile, out_dir: Path) -> Graph:
    """Run all passes on a traced graph and write `<component>.onnx` into `out_dir`."""
    annotated = annotate(graph, target)
    graph, (model, note) = annotated.graph, strip_debug_info.apply(annotated.model)
    # A large model is in memory twice here, and writing needs a third copy.
    del annotated
    return _write(graph, model, note, out_dir)


def annotate(graph: Graph, target: TargetProfile) -> Annotated:
    """Run all passes but the last on a traced graph, and look up what its metadata selects."""
    model, notes = onnx.load(graph.path), []
    for name, apply in pipeline(target)[:-1]:
        model, note = apply(model)
        notes.append(f"{name}: {note}")
    quantization = graph.quantization
    if quantization is not None:
        quantization = replace(quantization, treatments=treatments(model, quantization.recipe))
    graph = replace(
        graph,
        rewrites=tuple(notes),
        fp32_nodes=fp32_nodes(model, graph.recipe) if graph.recipe else (),
        quantization=quantization,
    )
    return Annotated(graph=graph, model=model)


def write(annotated: Annotated, out_dir: Path) -> Graph:
    """Remove the metadata and write `<component>.onnx` into `out_dir`."""
    model, note = strip_debug_info.apply(annotated.model)
    return _write(annotated.graph, model, note, out_dir)


def _write(graph: Graph, model: onnx.ModelProto, note: str, out_dir: Path) -> Graph:
    path = out_dir / f"{graph.component.name}.onnx"
    onnx_file.save(model, path)
    onnx_file.check(path)
    return replace(graph, path=path, rewrites=(*graph.rewrites, f"strip_debug_info: {note}"))
