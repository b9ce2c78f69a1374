"""One component of an export: trace, rewrite, prepare for INT8, and lower."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from effsam_export import backends
from effsam_export.models import fixed
from effsam_export.pipeline import details, int8
from effsam_export.pipeline import lower as lowering
from effsam_export.pipeline.stage_keys import form_of
from effsam_export.spec.stages import Graph
from effsam_export.util.files import megabytes
from effsam_export.util.progress import stage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import nn

    from effsam_export.bundle.manifest import Exported
    from effsam_export.calibration.samples import Calibration
    from effsam_export.pipeline.plan import ExportPlan
    from effsam_export.pipeline.workspace import Workspace
    from effsam_export.spec.int8 import Quantization
    from effsam_export.spec.model import ComponentSpec
    from effsam_export.spec.targets import TargetProfile

PROGRAM = "program.pt2"


@dataclass(frozen=True, kw_only=True)
class TraceJob:
    """One trace of a component.

    Attributes:
        spec: The component, which is traced through its `wrap`.
        quantization: What an INT8 export does to the graph; None for another precision.
        changes: What else the trace depends on, and what it depends on instead of the form of
            `wrap`, if that changes weights.
        out: Directory for the rewritten ONNX file.
        scratch: Directory for the traced program.
    """

    spec: ComponentSpec
    quantization: Quantization | None
    out: Path
    scratch: Path
    changes: Mapping[str, str]


def export_components(
    plan: ExportPlan, module: nn.Module, calibration: Calibration | None, space: Workspace
) -> list[Exported]:
    """Trace and lower every component of the plan, the encoder first."""
    exported: list[Exported] = []
    for spec in plan.components:
        quantization = int8.quantization(plan, spec, calibration, exported)
        exported.append(export_component(plan, module, spec, quantization, space))
    return exported


def export_component(
    plan: ExportPlan,
    module: nn.Module,
    spec: ComponentSpec,
    quantization: Quantization | None,
    space: Workspace,
) -> Exported:
    """Trace one component, rewrite its graph, and lower it in a separate process.

    If an INT8 recipe changes weights before they are quantized, a second trace holds the changed
    weights and is lowered. The parity check uses the first one, with the original weights.
    """
    from effsam_export.bundle.manifest import Exported

    sources = space.work / "source"
    sources.mkdir(exist_ok=True)
    job = TraceJob(
        spec=spec, quantization=quantization, out=sources, scratch=space.scratch, changes={}
    )
    with stage(f"trace {spec.name}", space.on_event) as running:
        graph, cached = traced(plan, module, job)
        running.detail = cache_detail(cached, megabytes(graph.files))
        details.log_graph(graph)
    lowered_graph = graph
    if quantization is not None and quantization.recipe.prepares_weights:
        from effsam_export.quantize import prepare

        with stage(f"round {spec.name}", space.on_event) as running:
            # Rounding is slow. It only runs if the trace is not in the cache.
            wrap = cache(lambda of: prepare.prepare_component(spec, of, quantization).wrap(of))
            folder = space.scratch / f"{spec.name}-rounded"
            folder.mkdir()
            job = TraceJob(
                spec=replace(spec, wrap=wrap),
                quantization=quantization,
                out=folder,
                scratch=folder,
                # The function itself holds weights: the form is that of what it wraps.
                changes={**int8.weight_changes(quantization), "form": form_of(spec.wrap)},
            )
            lowered_graph, cached = traced(plan, module, job)
            running.detail = cache_detail(cached, "")
    with stage(f"lower {spec.name}", space.on_event) as running:
        target = int8.for_component(plan.target, quantization)
        log = space.scratch / f"lower-{spec.name}.log"
        artifact, cached = lowering.lower(lowered_graph, target, space.work, log, plan.stage_cache)
        running.detail = cache_detail(cached, megabytes(artifact.files))
        details.log_artifact(artifact)
    return Exported(graph=graph, artifact=artifact)


def traced(plan: ExportPlan, module: nn.Module, job: TraceJob) -> tuple[Graph, bool]:
    """Trace a component and rewrite its ONNX graph; save the program if the backend reads it.

    Returns:
        The rewritten graph in `job.out`, and whether its trace was in the cache.
    """
    from effsam_export.graph import passes

    spec = job.spec
    target = int8.for_component(plan.target, job.quantization)
    reads_program = backends.BACKENDS[target.backend].reads == "program"
    folder, cached = trace_folder(plan, module, job)
    graph = Graph(
        component=spec,
        path=folder / f"{spec.name}.onnx",
        opset=target.opset,
        recipe=tuple(k for k in plan.dynamic_model.precision if k.component == spec.name),
        quantization=job.quantization,
    )
    graph = passes.rewrite(graph, target, job.out)
    if reads_program:
        graph = replace(
            graph,
            program=folder / PROGRAM,
            variants=slot_variants(plan, module, job),
            about=about(plan),
        )
    return graph, cached


def trace_folder(plan: ExportPlan, module: nn.Module, job: TraceJob) -> tuple[Path, bool]:
    """Trace a component, and convert the program to ONNX with the exporter's metadata.

    Returns:
        The folder with `<component>.onnx`, and whether it came from the cache.
    """
    from effsam_export.graph import trace

    spec = job.spec
    target = int8.for_component(plan.target, job.quantization)
    reads_program = backends.BACKENDS[target.backend].reads == "program"

    def make(folder: Path) -> None:
        program = trace.trace(module, spec)
        trace.to_onnx(program, spec, target.opset, folder)
        # Another export that shares the trace may read the program.
        if reads_program or plan.stage_cache is not None:
            trace.save(program, folder / PROGRAM)

    parts = trace_parts(spec, target, job.changes)
    return stage_result(plan, "trace", parts, make, job.scratch / f"trace-{spec.name}")


def trace_parts(
    spec: ComponentSpec, target: TargetProfile, changes: Mapping[str, str]
) -> dict[str, str]:
    """Return what a trace depends on besides the model and its weights.

    The layout and the export form are parts of it: two of them may have the same tensors.
    """
    layout = {} if target.layout is None else {"layout": target.layout}
    return {**program_parts(spec, changes), "opset": str(target.opset), **layout}


def program_parts(spec: ComponentSpec, changes: Mapping[str, str]) -> dict[str, str]:
    """Return what a traced program depends on besides the model and its weights."""
    return {**lowering.contract_of(spec), "form": form_of(spec.wrap), **changes}


def stage_result(
    plan: ExportPlan,
    name: str,
    parts: Mapping[str, str],
    make: Callable[[Path], None],
    folder: Path,
) -> tuple[Path, bool]:
    """Return the folder with a stage's result, and whether it came from the cache.

    Without a cache the result is made in `folder`.
    """
    if plan.stage_cache is not None:
        return plan.stage_cache.get_or_make(name, parts, make)
    folder.mkdir()
    make(folder)
    return folder, False


def cache_detail(cached: bool, detail: str) -> str:
    """Return the detail of a stage event, with a note if the result was cached."""
    return ", ".join(filter(None, (detail, "from the cache" if cached else "")))


def about(plan: ExportPlan) -> dict[str, str]:
    """Return export metadata, which formats that support it embed in their files."""
    from effsam_export.bundle.manifest import CONTRACT_VERSION

    model = plan.model
    return {
        "model": model.name,
        "title": model.title,
        "origin": model.origin,
        "licence": model.licence.spdx,
        "checkpoint_sha256": plan.weights.sha256,
        "contract_version": str(CONTRACT_VERSION),
    }


def slot_variants(
    plan: ExportPlan, module: nn.Module, job: TraceJob
) -> tuple[tuple[int, Path], ...]:
    """Trace a component with each further number of prompt slots that the target asks for.

    Returns:
        Pairs of slots and `.pt2` file.
    """
    from effsam_export.graph import trace

    spec = job.spec
    dynamic = plan.dynamic_model.component(spec.name)
    if dynamic.fixed is None or dynamic.inputs == spec.inputs:
        return ()
    variants = []
    for slots in fixed.further_slots(plan.target.options):
        # The module works with any number of slots, and `spec.wrap` may hold INT8 weights.
        further = replace(dynamic.fixed(dynamic, slots), wrap=spec.wrap)

        def make(folder: Path, further: ComponentSpec = further) -> None:
            trace.save(trace.trace(module, further), folder / PROGRAM)

        own = job.scratch / f"trace-{spec.name}-{slots}"
        parts = program_parts(further, job.changes)
        folder, _ = stage_result(plan, "program", parts, make, own)
        variants.append((slots, folder / PROGRAM))
    return tuple(variants)
