"""One component of an export: traced, rewritten, made ready for INT8, and lowered."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from effsam_export import backends
from effsam_export.models import fixed
from effsam_export.pipeline import int8
from effsam_export.pipeline import lower as lowering
from effsam_export.spec.stages import Graph
from effsam_export.util.files import megabytes
from effsam_export.util.progress import stage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import nn

    from effsam_export.bundle.manifest import Exported
    from effsam_export.pipeline.request import ExportRequest
    from effsam_export.spec.int8 import Quantization
    from effsam_export.spec.model import ComponentSpec
    from effsam_export.util.progress import OnEvent

PROGRAM = "program.pt2"


def component(
    request: ExportRequest,
    module: nn.Module,
    spec: ComponentSpec,
    work: Path,
    scratch: Path,
    on_event: OnEvent,
    quantized: Quantization | None = None,
) -> Exported:
    """Trace one component, rewrite its graph, and lower it in a process of its own.

    Where a recipe changes weights before they are quantized, what is lowered is traced a second
    time; the graph it is judged by holds the weights as they were.
    """
    from effsam_export.bundle.manifest import Exported

    sources = work / "source"
    sources.mkdir(exist_ok=True)
    with stage(f"trace {spec.name}", on_event) as running:
        graph, known = traced(request, module, spec, sources, scratch, quantized)
        running.detail = from_cache(known, megabytes(graph.files))
    ready = graph
    if quantized is not None and quantized.recipe.prepares_weights:
        from effsam_export.quantize import prepare

        with stage(f"round {spec.name}", on_event) as running:
            # Slow, and not done where its trace is in the cache.
            wrap = cache(lambda of: prepare.prepared(spec, of, quantized).wrap(of))
            folder = scratch / f"{spec.name}-rounded"
            folder.mkdir()
            ready, known = traced(
                request,
                module,
                replace(spec, wrap=wrap),
                folder,
                folder,
                quantized,
                changes=int8.changes(quantized),
            )
            running.detail = from_cache(known, "")
    with stage(f"lower {spec.name}", on_event) as running:
        target = int8.for_component(request.target, quantized)
        log = scratch / f"lower-{spec.name}.log"
        artifact, known = lowering.lower(ready, target, work, log, request.stage_cache)
        running.detail = from_cache(known, megabytes(artifact.files))
    return Exported(graph=graph, artifact=artifact)


def traced(
    request: ExportRequest,
    module: nn.Module,
    spec: ComponentSpec,
    out: Path,
    scratch: Path,
    quantized: Quantization | None,
    *,
    changes: Mapping[str, str] | None = None,
) -> tuple[Graph, bool]:
    """A component as a rewritten graph in `out`; its program too, where a backend reads that.

    Args:
        request: With a cache of stages, or without one.
        module: The loaded model.
        spec: Of the component, by whose `wrap` it is traced.
        out: For the ONNX file.
        scratch: For what is needed on the way.
        quantized: What an INT8 export does to the graph.
        changes: What else the trace follows from, where `wrap` changes weights.

    Returns:
        The graph, and whether its trace was in the cache.
    """
    from effsam_export.graph import passes, trace

    target = int8.for_component(request.target, quantized)
    reads_program = backends.BACKENDS[target.backend].reads == "program"

    def make(folder: Path) -> None:
        program = trace.trace(module, spec)
        trace.to_onnx(program, spec, target.opset, folder)
        # Another export that shares the trace may read it.
        if reads_program or request.stage_cache is not None:
            trace.save(program, folder / PROGRAM)

    follows = {**lowering.contract_of(spec), "opset": str(target.opset), **(changes or {})}
    folder, known = result_of(request, "trace", follows, make, scratch / f"trace-{spec.name}")
    recipe = tuple(k for k in request.model.precision if k.component == spec.name)
    graph = Graph(
        component=spec,
        path=folder / f"{spec.name}.onnx",
        opset=target.opset,
        recipe=recipe,
        quantization=quantized,
    )
    graph = passes.rewrite(graph, target, out)
    if reads_program:
        graph = replace(
            graph,
            program=folder / PROGRAM,
            variants=variants(request, module, spec, scratch, changes or {}),
            about=about(request),
        )
    return graph, known


def result_of(
    request: ExportRequest,
    name: str,
    parts: Mapping[str, str],
    make: Callable[[Path], None],
    folder: Path,
) -> tuple[Path, bool]:
    """The folder with the result of a stage: of the cache, where there is one, or a new one."""
    if request.stage_cache is not None:
        return request.stage_cache.get_or_make(name, parts, make)
    folder.mkdir()
    make(folder)
    return folder, False


def from_cache(known: bool, detail: str) -> str:
    """What is said of a stage that may have been in the cache."""
    return ", ".join(filter(None, (detail, "from the cache" if known else "")))


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
    request: ExportRequest,
    module: nn.Module,
    spec: ComponentSpec,
    scratch: Path,
    changes: Mapping[str, str],
) -> tuple[tuple[int, Path], ...]:
    """Programs of a component with the further numbers of slots that the target asks for."""
    from effsam_export.graph import trace

    dynamic = request.model.component(spec.name)
    if dynamic.fixed is None or dynamic.inputs == spec.inputs:
        return ()
    found = []
    for slots in fixed.further_slots(request.target.options):
        # The module does not know its slots; its weights may have been changed for INT8.
        further = replace(dynamic.fixed(dynamic, slots), wrap=spec.wrap)

        def make(folder: Path, further: ComponentSpec = further) -> None:
            trace.save(trace.trace(module, further), folder / PROGRAM)

        own = scratch / f"trace-{spec.name}-{slots}"
        follows = {**lowering.contract_of(further), **changes}
        folder, _ = result_of(request, "program", follows, make, own)
        found.append((slots, folder / PROGRAM))
    return tuple(found)
