"""Compare the artefacts of an export with PyTorch."""

from __future__ import annotations

import filecmp
import json
from dataclasses import replace
from typing import TYPE_CHECKING

from effsam_export import backends
from effsam_export.backends.onnx.backend import open_source
from effsam_export.backends.onnx.session import CPU
from effsam_export.pipeline.stage_keys import form_of
from effsam_export.util import cpu, installed
from effsam_export.util.files import sha256_of
from effsam_export.util.machine import usable_cores

if TYPE_CHECKING:
    from torch import nn

    from effsam_export.backends import Backend, Session
    from effsam_export.bundle.manifest import Exported
    from effsam_export.parity.check import ParityResult
    from effsam_export.parity.comparison import Sides
    from effsam_export.pipeline.plan import ExportPlan
    from effsam_export.pipeline.stage_cache import StageCache
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.stages import Artifact, Graph
    from effsam_export.util.progress import OnProgress


def prove(
    plan: ExportPlan, module: nn.Module, exported: list[Exported], on_progress: OnProgress
) -> ParityResult:
    """Compare the artefacts with the authors' PyTorch code on the evaluation images."""
    return compare(plan, open_sides(plan, module, exported), on_progress)


def open_sides(plan: ExportPlan, module: nn.Module, exported: list[Exported]) -> Sides:
    """Open the traced graphs and the artefacts of an export."""
    from effsam_export.parity.comparison import Sides

    target = plan.target
    backend = backends.load(target.backend)
    sources = {e.artifact.component: open_cached(plan.stage_cache, e.graph) for e in exported}
    return Sides(
        module=module,
        sources=sources,
        # An artefact with the bytes of the traced graph is not opened and run a second time.
        artifacts={
            e.artifact.component: sources[e.artifact.component]
            if is_traced_graph(e)
            else open_artifact(plan.stage_cache, backend, e.artifact)
            for e in exported
        },
        simulator=backend.simulator(target.options),
    )


def compare(plan: ExportPlan, sides: Sides, on_progress: OnProgress) -> ParityResult:
    """Compare opened artefacts with PyTorch on the evaluation images."""
    from effsam_export.parity.check import check

    target = plan.target
    return check(
        with_cached_reference(plan.model, plan.stage_cache, target.layout),
        sides,
        plan.evaluation_set(plan.model),
        target=target.name,
        precision=target.precision,
        gates=target.gates,
        on_progress=on_progress,
    )


def with_cached_reference(
    model: ModelSpec, stage_cache: StageCache | None, layout: str | None
) -> ModelSpec:
    """Return the model with PyTorch's outputs read from the stage cache, if there is one."""
    from effsam_export.parity.cached import cached_reference

    if stage_cache is None:
        return model
    # A layout has an image and outputs of its own.
    parts = {} if layout is None else {"layout": layout}
    components = tuple(
        cached_reference(
            c,
            stage_cache.outputs(
                "reference", {"component": c.name, "form": form_of(c.reference), **parts}
            ),
        )
        for c in model.components
    )
    return replace(model, components=components)


def open_cached(stage_cache: StageCache | None, graph: Graph) -> Session:
    """Open a traced graph in ONNX Runtime, with outputs from the stage cache, if there is one."""
    from effsam_export.parity.cached import CachedSession

    session = open_source(graph)
    if stage_cache is None:
        return session
    hashes = " ".join(sha256_of(path) for path in graph.files)
    return CachedSession(session, stage_cache.outputs("source", {"graph": hashes}))


def open_artifact(stage_cache: StageCache | None, backend: Backend, artifact: Artifact) -> Session:
    """Open an artefact, with outputs from the stage cache if this machine's CPU computes them."""
    from effsam_export.parity.cached import CachedSession

    session = backend.open_session(artifact)
    if stage_cache is None or not on_cpu(artifact, backend.simulator(artifact.options)):
        return session
    packages = backends.BACKENDS[artifact.backend].packages
    parts = {
        "component": artifact.component,
        "files": " ".join(f"{path.name} {sha256_of(path)}" for path in artifact.files),
        "backend": artifact.backend,
        "options": json.dumps(dict(artifact.options), sort_keys=True),
        # The runtimes choose their threads by them.
        "cores": str(usable_cores()),
        # They decide whether OpenVINO computes in BF16.
        "cpu": " ".join(cpu.flags()),
        **{f"tool.{name}": installed.version_of(name) for name in packages},
    }
    return CachedSession(session, stage_cache.outputs("artifact", parts))


def on_cpu(artifact: Artifact, simulator: str) -> bool:
    """Return whether an artefact runs on the CPU of this machine, which the cache's key names."""
    options = artifact.options
    if artifact.backend == "onnx":
        return options.get("provider", CPU) == CPU
    if artifact.backend == "openvino":
        return options.get("device", "CPU") == "CPU"
    # Simulators of Core ML run in PyTorch; LiteRT's GPU delegate is always simulated.
    return artifact.backend == "tflite" or (artifact.backend == "coreml" and bool(simulator))


def is_traced_graph(exported: Exported) -> bool:
    """Return whether an artefact is its traced graph, byte for byte, in the same runtime.

    A traced graph runs in ONNX Runtime on the CPU.
    """
    artifact = exported.artifact
    on_cpu = artifact.backend == "onnx" and artifact.options.get("provider", CPU) == CPU
    return on_cpu and filecmp.cmp(exported.graph.path, artifact.files[0], shallow=False)
