"""One component of an export: traced, rewritten, made ready for INT8, and lowered."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from effsam_export import backends, int8, isolate
from effsam_export.files import megabytes
from effsam_export.models import fixed
from effsam_export.progress import stage

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from effsam_export.bundle.manifest import Exported
    from effsam_export.pipeline import ExportRequest
    from effsam_export.progress import Observer
    from effsam_export.quantize.plan import Quantization
    from effsam_export.spec import ComponentSpec, Graph


def component(
    request: ExportRequest,
    module: nn.Module,
    spec: ComponentSpec,
    work: Path,
    scratch: Path,
    observer: Observer,
    quantized: Quantization | None = None,
) -> Exported:
    """Trace one component, rewrite its graph, and lower it in a process of its own.

    Where a recipe changes weights before they are quantized, what is lowered is traced a second
    time; the graph it is judged by holds the weights as they were.
    """
    from effsam_export.bundle.manifest import Exported

    sources = work / "source"
    sources.mkdir(exist_ok=True)
    with stage(f"trace {spec.name}", observer) as running:
        graph = traced(request, module, spec, sources, scratch, quantized)
        running.detail = megabytes(graph.files)
    ready = graph
    if quantized is not None and quantized.recipe.prepares:
        from effsam_export.quantize import prepare

        with stage(f"round {spec.name}", observer):
            changed = prepare.prepared(spec, module, quantized)
            folder = scratch / f"{spec.name}-rounded"
            folder.mkdir()
            ready = traced(request, module, changed, folder, folder, quantized)
    with stage(f"lower {spec.name}", observer) as running:
        target = int8.for_component(request.target, quantized)
        artifact = isolate.lower(ready, target, work, scratch / f"lower-{spec.name}.log")
        running.detail = megabytes(artifact.files)
    return Exported(graph=graph, artifact=artifact)


def traced(
    request: ExportRequest,
    module: nn.Module,
    spec: ComponentSpec,
    out: Path,
    scratch: Path,
    quantized: Quantization | None,
) -> Graph:
    """A component as a rewritten graph in `out`; its program too, where a backend reads that."""
    from effsam_export import passes, trace

    target = int8.for_component(request.target, quantized)
    program = trace.trace(module, spec)
    recipe = tuple(k for k in request.model.precision if k.component == spec.name)
    graph = trace.to_onnx(program, spec, target.opset, out)
    graph = passes.rewrite(replace(graph, recipe=recipe, quantization=quantized), target, out)
    if backends.BACKENDS[target.backend].reads == "program":
        graph = replace(
            graph,
            program=trace.save(program, scratch / f"{spec.name}.pt2"),
            variants=variants(request, module, spec, scratch),
            about=about(request),
        )
    return graph


def about(request: ExportRequest) -> dict[str, str]:
    """What a format with room for it says of the model, to a person who has nothing else."""
    from effsam_export.bundle.manifest import CONTRACT_VERSION

    model = request.model
    return {
        "model": model.name,
        "title": model.title,
        "origin": model.origin,
        "licence": model.licence.spdx,
        "checkpoint_sha256": request.checkpoint.sha256,
        "contract_version": str(CONTRACT_VERSION),
    }


def variants(
    request: ExportRequest, module: nn.Module, spec: ComponentSpec, scratch: Path
) -> tuple[tuple[int, Path], ...]:
    """Programs of a component with the further numbers of slots that the target asks for."""
    from effsam_export import trace

    dynamic = request.model.component(spec.name)
    if dynamic.fixed is None or dynamic.inputs == spec.inputs:
        return ()
    found = []
    for slots in fixed.further_slots(request.target.options):
        # The module does not know its slots; its weights may have been changed for INT8.
        further = replace(dynamic.fixed(dynamic, slots), wrap=spec.wrap)
        program = trace.trace(module, further)
        found.append((slots, trace.save(program, scratch / f"{spec.name}.{slots}.pt2")))
    return tuple(found)
