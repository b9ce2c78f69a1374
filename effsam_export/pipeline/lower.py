"""Lower a graph, or take the artefact from the stage cache.

The FP16 and FP32 variants that an INT8 export is compared with are often exports of the same build.
An INT8 artefact also depends on calibration images and is not cached.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from effsam_export import backends
from effsam_export.pipeline import isolate
from effsam_export.pipeline.stage_cache import digest
from effsam_export.spec.stages import Artifact
from effsam_export.util import cpu, installed
from effsam_export.util.files import sha256_of

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.pipeline.stage_cache import StageCache
    from effsam_export.spec.model import ComponentSpec
    from effsam_export.spec.stages import Graph
    from effsam_export.spec.targets import TargetProfile

RECEIPT = "artifact.json"


def lower(
    graph: Graph, target: TargetProfile, out_dir: Path, log: Path, stage_cache: StageCache | None
) -> tuple[Artifact, bool]:
    """Lower a graph in a separate process, or copy the same artefact from the cache.

    Args:
        graph: Traced and rewritten component.
        target: Backend and precision.
        out_dir: Directory for the artefact's files; other files in it stay.
        log: File for the converter's output.
        stage_cache: The cache; None to lower without one.

    Returns:
        The artefact, and whether it came from the cache.

    Raises:
        ConversionFailed: The converter crashed.
        EffsamError: The backend refuses the graph, or the cache cannot be written.
    """
    if graph.quantization is not None and not graph.quantization.recipe.quantizes:
        graph = replace(graph, quantization=None)
    if stage_cache is None or graph.quantization is not None:
        return isolate.lower(graph, target, out_dir, log), False

    def make(folder: Path) -> None:
        artifact = isolate.lower(graph, target, folder, log)
        names = [path.relative_to(folder).as_posix() for path in artifact.files]
        document = {**asdict(artifact), "files": names}
        (folder / RECEIPT).write_text(json.dumps(document), "utf-8")

    folder, cached = stage_cache.get_or_make("lower", inputs_of(graph, target), make)
    document = json.loads((folder / RECEIPT).read_text("utf-8"))
    for name in document["files"]:
        (out_dir / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, out_dir / name)
    files = tuple(out_dir / name for name in document["files"])
    return Artifact(**{**document, "files": files}), cached


def contract_of(spec: ComponentSpec) -> dict[str, str]:
    """Return the name and tensors of a component, on which all of its stages depend."""
    tensors = [(t.name, t.shape, t.dtype) for t in (*spec.inputs, *spec.outputs)]
    return {"component": spec.name, "tensors": repr(tensors)}


def inputs_of(graph: Graph, target: TargetProfile) -> dict[str, str]:
    """Return what an artefact without INT8 depends on besides the model and its weights."""
    backend = backends.BACKENDS[target.backend]
    # What a compiled model runs in BF16 depends on the CPU.
    there = {"cpu": " ".join(cpu.flags())} if target.precision == "bf16" else {}
    programs = [*graph.variants, *([(0, graph.program)] if graph.program else [])]
    return {
        **contract_of(graph.component),
        "graph": " ".join(sha256_of(path) for path in graph.files),
        "programs": " ".join(f"{slots}:{sha256_of(path)}" for slots, path in programs),
        "opset": str(graph.opset),
        "precision": target.precision,
        "fp32": digest({"recipe": repr(graph.recipe), "nodes": " ".join(graph.fp32_nodes)}),
        "about": json.dumps(dict(graph.about), sort_keys=True),
        "backend": target.backend,
        **there,
        "options": json.dumps(dict(target.options), sort_keys=True),
        "layout": target.layout or "",
        **{f"tool.{name}": installed.version_of(name) for name in backend.packages},
    }
