"""Compare the artefacts of an export with PyTorch."""

from __future__ import annotations

import filecmp
from dataclasses import replace
from typing import TYPE_CHECKING

from effsam_export.backends.onnx.backend import open_source
from effsam_export.config.parity import load_parity_images
from effsam_export.util.files import sha256_of

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from effsam_export.backends import Backend, Session
    from effsam_export.bundle.manifest import Exported
    from effsam_export.config.parity import ParityImage
    from effsam_export.parity.check import ParityResult
    from effsam_export.pipeline.request import ExportRequest
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.stages import Graph
    from effsam_export.util.progress import OnProgress


def prove(
    request: ExportRequest,
    module: nn.Module,
    exported: list[Exported],
    backend: Backend,
    on_progress: OnProgress,
) -> ParityResult:
    """Judge the artefacts against the untouched reference on real photographs."""
    from effsam_export.parity.check import check
    from effsam_export.parity.comparison import Sides

    sources = {e.artifact.component: source_of(request, e.graph) for e in exported}
    sides = Sides(
        module=module,
        sources=sources,
        # An artefact that is the traced graph to the byte is not opened and run a second time.
        artifacts={
            e.artifact.component: sources[e.artifact.component]
            if same_file(e)
            else backend.open_session(e.artifact)
            for e in exported
        },
        simulator=backend.simulator(request.target.options),
    )
    model = with_cached_reference(request)
    images, left_out = evaluation_images(model, request.parity_file)
    return check(model, request.target, sides, images, left_out=left_out, on_progress=on_progress)


def with_cached_reference(request: ExportRequest) -> ModelSpec:
    """The model, its PyTorch answers from the cache of stages where there is one."""
    from effsam_export.parity.cached import cached_reference

    model, stage_cache = request.prepared, request.stage_cache
    if stage_cache is None:
        return model
    components = tuple(
        cached_reference(c, stage_cache.outputs("reference", {"component": c.name}))
        for c in model.components
    )
    return replace(model, components=components)


def source_of(request: ExportRequest, graph: Graph) -> Session:
    """A traced graph in ONNX Runtime, its answers from the cache of stages where there is one."""
    from effsam_export.parity.cached import CachedSession

    session = open_source(graph)
    if request.stage_cache is None:
        return session
    own = " ".join(sha256_of(path) for path in graph.files)
    return CachedSession(session, request.stage_cache.outputs("source", {"graph": own}))


def evaluation_images(
    model: ModelSpec, parity_file: Path | None
) -> tuple[tuple[ParityImage, ...], tuple[str, ...]]:
    """The user's own photographs and prompts; or those that ship, as far as the model takes them.

    The second part says which of those were left out, and why.
    """
    from effsam_export.parity.check import supported_cases

    images = load_parity_images(parity_file)
    return supported_cases(images, model.prompts) if parity_file is None else (images, ())


def same_file(exported: Exported) -> bool:
    """Whether an artefact is its traced graph, byte for byte, in the same runtime."""
    first = exported.artifact.files[0]
    return exported.artifact.backend == "onnx" and filecmp.cmp(
        exported.graph.path, first, shallow=False
    )
