"""Export every model for every target in every precision: state, size, time and mask IoU.

`python -m benchmarks.matrix [MODEL ...] [--target T ...] [--precision P ...] [--json NAME]`. A
model is traced once for each kind of shape, and PyTorch's outputs are computed once. Each cell is
lowered in a separate process and compared with PyTorch as `effsam export` does. Checkpoints hold
deterministic weights (`golden_checkpoints.py`), or come from `--weights DIR/MODEL.pt`. A failed
cell is a row with the reason. Cells that `--json` contains are not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks import golden_checkpoints, machine
from effsam_export import backends, models
from effsam_export.backends.onnx.backend import open_source
from effsam_export.calibration import images as calibration_images
from effsam_export.calibration.samples import Calibration
from effsam_export.config import calibration as calibration_recipe
from effsam_export.config import int8_recipe
from effsam_export.config import targets as profiles
from effsam_export.config.parity import load_parity_images
from effsam_export.errors import EffsamError
from effsam_export.graph import passes, trace
from effsam_export.models import fixed
from effsam_export.parity.cached import CachedSession, cached_reference
from effsam_export.parity.check import check
from effsam_export.parity.comparison import Sides
from effsam_export.parity.evaluation_set import evaluation_set, supported_cases
from effsam_export.pipeline import int8, isolate
from effsam_export.quantize import prepare as prepare_int8
from effsam_export.spec.int8 import Quantization
from effsam_export.weights import checkpoint as loading
from effsam_export.weights import own_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from effsam_export.backends import Session
    from effsam_export.config.parity import ParityImage
    from effsam_export.parity.results import ParityReport
    from effsam_export.spec.model import ComponentSpec, ModelSpec
    from effsam_export.spec.stages import Artifact, Graph
    from effsam_export.spec.targets import TargetProfile

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("onnx", "openvino", "tflite", "coreml", "tensorrt-rtx")
PRECISIONS = ("fp32", "fp16")
PROMPTS = {"coffee", "cup", "spoon", "saucer", "refine"}
"""Prompts on the first image: a point, several points, a box, both, and a fed-back mask."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One model for one target in one precision.

    Attributes:
        state: `verified`, `simulated`, or `failed`.
        bytes: Size of the files an app ships.
        lower_s: Wall time of all conversions, each in its own process.
        parity_s: Wall time of running the artefacts on all prompts.
        min_iou, mean_iou: End-to-end mask IoU with PyTorch, of the masks that decide.
        min_best_iou, mean_best_iou: IoU of the artefact's best-scoring mask with PyTorch's.
        ranking_changes: Prompts for which another mask of the set has the best score; no ties.
        score_error: Largest difference of a score.
        finite: No output of an artefact is NaN or infinite.
        reason: Why it failed: the first missed gate, or the error.
    """

    model: str
    target: str
    precision: str
    official: bool
    state: str
    simulator: str = ""
    bytes: int = 0
    lower_s: float = 0.0
    parity_s: float = 0.0
    prompts: int = 0
    min_iou: float | None = None
    mean_iou: float | None = None
    min_best_iou: float | None = None
    mean_best_iou: float | None = None
    ranking_changes: int = 0
    score_error: float | None = None
    finite: bool = True
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A loaded model and the results that its cells share."""

    model: ModelSpec
    module: nn.Module
    official: bool
    images: tuple[ParityImage, ...]
    graphs: dict[tuple[object, ...], Graph]
    sources: dict[Path, Session]
    samples: dict[str, Path]
    rounded: dict[tuple[str, str], ComponentSpec]
    folder: Path


def prepare(name: str, checkpoint: Path, images: tuple[ParityImage, ...], folder: Path) -> Prepared:
    """Load a model whose PyTorch outputs are cached."""
    spec = models.get(name)
    found = own_file.checkpoint_from_file(checkpoint, spec.weights)
    module = loading.load(spec, found)
    components = tuple(cached_reference(c) for c in spec.components)
    kept, _ = supported_cases(images, spec.prompts)
    return Prepared(
        model=replace(spec, components=components),
        module=module,
        official=found.official,
        images=kept,
        graphs={},
        sources={},
        samples={},
        rounded={},
        folder=folder,
    )


def quantization(
    prepared: Prepared, component: ComponentSpec, target: TargetProfile
) -> Quantization | None:
    """Return the shipped recipe of a component with its calibration samples."""
    if target.precision != "int8":
        return None
    recipe = int8_recipe.load(prepared.model.name).recipe(component.name, target.backend)
    if recipe.quantizes and component.name not in prepared.samples:
        # No shipped recipe quantizes a decoder, so only encoders need samples.
        folder = prepared.folder / "calibration"
        folder.mkdir(exist_ok=True)
        made = Calibration(
            images=calibration_images.load(calibration_recipe.load()),
            folder=folder,
            threads=torch.get_num_threads(),
        )
        prepared.samples[component.name] = made.samples(prepared.model, component)
    samples = prepared.samples.get(component.name, prepared.folder)
    return Quantization(recipe=recipe, samples=samples)


def rounded(prepared: Prepared, component: ComponentSpec, quantized: Quantization) -> ComponentSpec:
    """Return the component with weights prepared for INT8, once for each recipe."""
    key = (component.name, repr(quantized))
    if key not in prepared.rounded:
        prepared.rounded[key] = prepare_int8.prepare_component(
            component, prepared.module, quantized
        )
    return replace(component, wrap=prepared.rounded[key].wrap)


def graph_of(
    prepared: Prepared,
    component: ComponentSpec,
    target: TargetProfile,
    quantized: Quantization | None,
    *,
    changed: bool = False,
) -> Graph:
    """Return the traced component; traced at the first call for its shapes and weights."""
    shapes = (component.name, component.inputs, target.opset, target.simplify)
    key = (*shapes, repr(quantized), changed)
    if key not in prepared.graphs:
        folder = prepared.folder / f"{component.name}-{len(prepared.graphs)}"
        folder.mkdir()
        program = trace.trace(prepared.module, component)
        recipe = tuple(k for k in prepared.model.precision if k.component == component.name)
        graph = trace.to_onnx(program, component, target.opset, folder)
        graph = replace(graph, recipe=recipe, quantization=quantized)
        graph = passes.rewrite(graph, target, folder)
        saved = trace.save(program, folder / "program.pt2")
        prepared.graphs[key] = replace(graph, program=saved)
    return replace(prepared.graphs[key], component=component)


def make(prepared: Prepared, target: TargetProfile) -> Cell:
    """Lower one cell, open it and compare it with PyTorch."""
    start = Cell(
        model=prepared.model.name,
        target=target.name,
        precision=target.precision,
        official=prepared.official,
        state="failed",
    )
    model = fixed.for_options(prepared.model, target.options)
    with tempfile.TemporaryDirectory(dir=prepared.folder) as name:
        out = Path(name)
        graphs: dict[str, Graph] = {}
        artifacts: dict[str, Artifact] = {}
        try:
            for component in model.components:
                quantized = quantization(prepared, component, target)
                graph = graph_of(prepared, component, target, quantized)
                graphs[component.name] = graph
                if quantized is not None and quantized.recipe.prepares_weights:
                    ready = rounded(prepared, component, quantized)
                    graph = graph_of(prepared, ready, target, quantized, changed=True)
                began = time.perf_counter()
                log = out / f"{component.name}.log"
                own = int8.for_component(target, quantized)
                artifacts[component.name] = isolate.lower(graph, own, out, log)
                start = replace(start, lower_s=start.lower_s + time.perf_counter() - began)
        except EffsamError as error:
            return replace(start, reason=error.message.splitlines()[0])
        except Exception as error:
            # An unexpected error is a row of the table too.
            return replace(start, reason=f"{type(error).__name__}: {error}".splitlines()[0][:200])
        start = replace(
            start, bytes=sum(f.stat().st_size for a in artifacts.values() for f in a.files)
        )
        begin = time.perf_counter()
        try:
            report = parity_report(prepared, model, target, graphs, artifacts)
        except Exception as error:
            # Some errors of a runtime only appear when it runs.
            return replace(start, reason=f"{type(error).__name__}: {error}".splitlines()[0][:200])
    return with_report(replace(start, parity_s=time.perf_counter() - begin), report)


def parity_report(
    prepared: Prepared,
    model: ModelSpec,
    target: TargetProfile,
    graphs: dict[str, Graph],
    artifacts: dict[str, Artifact],
) -> ParityReport:
    """Return the parity report of one cell; outputs of traced graphs are cached."""
    backend = backends.load(target.backend)
    for graph in graphs.values():
        if graph.path not in prepared.sources:
            prepared.sources[graph.path] = CachedSession(open_source(graph))
    sides = Sides(
        module=prepared.module,
        sources={name: prepared.sources[g.path] for name, g in graphs.items()},
        artifacts={name: backend.open_session(a) for name, a in artifacts.items()},
        simulator=backend.simulator(target.options),
    )
    evaluation = evaluation_set(model, prepared.images, custom=False)
    return check(
        model,
        sides,
        evaluation,
        target=target.name,
        precision=target.precision,
        gates=target.gates,
    ).report


def with_report(cell: Cell, report: ParityReport) -> Cell:
    """Return a cell with the figures of its parity report."""
    assert report.min_iou is not None
    chosen = [c.best_iou for c in report.cases]
    artefact = [t for s in report.comparisons if s.point == "artifact" for t in s.tensors]
    return replace(
        cell,
        state=report.state if report.passed else "failed",
        simulator=report.simulator,
        prompts=len(report.cases),
        min_iou=report.min_iou,
        mean_iou=report.mean_iou,
        min_best_iou=min(chosen),
        mean_best_iou=float(np.mean(chosen)),
        ranking_changes=sum(d.ranking_counts for d in report.decisions),
        score_error=report.score_error,
        finite=all(t.finite for t in artefact),
        reason="" if report.passed else report.failures[0],
    )


def table(cells: list[Cell]) -> str:
    """Return the cells as a Markdown table."""
    lines = [
        "| model | target | precision | state | MB | lower, s | prompts | min IoU | mean IoU "
        "| min IoU of best masks | ranking changes | why |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for c in cells:
        values = (c.min_iou, c.mean_iou, c.min_best_iou)
        ious = ["-" if v is None else f"{v:.4f}" for v in values]
        lines.append(
            f"| `{c.model}` | {c.target} | {c.precision} | {c.state} | {c.bytes / 1e6:.1f} "
            f"| {c.lower_s:.0f} | {c.prompts} | {' | '.join(ious)} | {c.ranking_changes} "
            f"| {c.reason} |"
        )
    return "\n".join(lines)


def evaluation_images_of(parity: Path | None, full: bool) -> tuple[ParityImage, ...]:
    """Return the evaluation images: all, a user's own, or the first with each kind of prompt."""
    images = load_parity_images(parity)
    if full or parity:
        return images
    cases = tuple(c for c in images[0].cases if c.name in PROMPTS)
    return (replace(images[0], cases=cases),)


def cells_of(
    model: str, args: argparse.Namespace, done: set[tuple[str, str, str]]
) -> Iterator[Cell]:
    """Yield the missing cells of one model."""
    missing = [
        (t, p)
        for t in args.target
        for p in args.precision
        if (model, t, p) not in done and p in profiles.load_target(t).precisions
    ]
    if not missing:
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = args.weights / f"{model}.pt" if args.weights else None
        if given is None or not given.is_file():
            given = golden_checkpoints.write_checkpoint(model, folder / f"{model}.pt", args.golden)
        prepared = prepare(model, given, evaluation_images_of(args.parity, args.full), folder)
        for target, precision in missing:
            options = {"compute_capabilities": "86"} if target == "tensorrt-rtx" else {}
            yield make(prepared, profiles.load_target(target, precision, options))


def main(argv: list[str] | None = None) -> None:
    """Make the requested cells that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("models", nargs="*", choices=[*golden_checkpoints.VARIANTS, []])
    parser.add_argument("--target", nargs="+", default=TARGETS)
    parser.add_argument("--precision", nargs="+", default=PRECISIONS)
    parser.add_argument("--golden", type=Path, default=golden_checkpoints.golden_dir())
    parser.add_argument("--weights", type=Path, help="folder of MODEL.pt files to prefer")
    parser.add_argument(
        "--parity", type=Path, help="TOML file with other evaluation images and prompts"
    )
    parser.add_argument("--full", action="store_true", help="all evaluation images and prompts")
    parser.add_argument("--json", metavar="NAME", help="keep the cells in results/NAME.json")
    args = parser.parse_args(argv)
    path = ROOT / "benchmarks" / "results" / f"{args.json}.json" if args.json else None
    cells = read(path) if path else []
    done = {(c.model, c.target, c.precision) for c in cells if c.state != "failed"}
    for model in args.models or golden_checkpoints.VARIANTS:
        for cell in cells_of(model, args, done):
            same = (cell.model, cell.target, cell.precision)
            cells = [c for c in cells if (c.model, c.target, c.precision) != same] + [cell]
            print(table([cell]).splitlines()[-1], file=sys.stderr, flush=True)
            if path:
                write(cells, path)
    print(table(cells))


def read(path: Path) -> list[Cell]:
    """Read the cells of an earlier run."""
    if not path.is_file():
        return []
    return [Cell(**row) for row in json.loads(path.read_text("utf-8"))["cells"]]


def write(cells: list[Cell], path: Path) -> None:
    """Write the cells with a description of the machine."""
    document: dict[str, Any] = {
        "machine": machine.describe(),
        "cells": [asdict(c) for c in cells],
    }
    path.write_text(json.dumps(document, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
