"""The judge of a search: quantized graphs in ONNX Runtime, held to PyTorch on real photographs.

ONNX Runtime simulates every target here: an encoder's ranges are measured once, a decoder's
for each encoder it is asked for with, on what that encoder gives; a graph with other layers
quantized is ready in seconds. What is found is a recipe by module, which the target's own quantizer
takes: `Bench.deployed` judges what comes of it, in a minute or more.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from effsam_export.backends.onnx import activation_ranges
from effsam_export.backends.onnx import quantize as onnx_qdq
from effsam_export.backends.onnx.backend import OnnxSession
from effsam_export.bisect.search import SEPARATOR, Evaluation
from effsam_export.errors import CheckFailed
from effsam_export.graph import onnx_file, passes, trace
from effsam_export.parity.cached import CachedSession, cached_reference
from effsam_export.parity.check import check
from effsam_export.parity.comparison import Sides
from effsam_export.pipeline import int8, isolate
from effsam_export.pipeline import run as pipeline
from effsam_export.pipeline.prove import prove
from effsam_export.pipeline.workspace import Workspace
from effsam_export.precision.select import onnx_scope
from effsam_export.quantize import prepare
from effsam_export.quantize.treatments import WEIGHTED
from effsam_export.spec.int8 import LayerOverride, Quantization, Treatment
from effsam_export.util.progress import stage
from effsam_export.weights import checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from effsam_export.backends import Session
    from effsam_export.backends.onnx.activation_ranges import Range
    from effsam_export.bisect.search import Kept
    from effsam_export.calibration.samples import Calibration
    from effsam_export.parity.check import ParityResult
    from effsam_export.parity.evaluation_set import EvaluationSet
    from effsam_export.pipeline.plan import ExportPlan
    from effsam_export.spec.int8 import Int8Recipe
    from effsam_export.spec.model import ComponentSpec, ModelSpec
    from effsam_export.spec.stages import Graph
    from effsam_export.spec.targets import TargetProfile
    from effsam_export.util.progress import OnEvent

CPU = "CPUExecutionProvider"

Treatments = Mapping[str, Treatment]
"""Of the nodes of a component."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One component, ready to be quantized in any way.

    Attributes:
        places: Node -> paths of the modules it lies in, for the nodes that could be quantized.
        own: Constant -> its values before weights were rounded; empty where none were.
    """

    graph: Graph
    model: onnx.ModelProto
    quantization: Quantization
    places: Mapping[str, Sequence[str]]
    own: Mapping[str, onnx.TensorProto]

    @property
    def layers(self) -> list[str]:
        """Innermost modules, in the order of the graph."""
        name = self.graph.component.name
        return list(dict.fromkeys(f"{name}{SEPARATOR}{p[-1]}" for p in self.places.values()))


class Int8Evaluator:
    """Everything that judgements share.

    Args:
        plan: Model, weights, evaluation images and the recipe to improve.
        scratch: Folder for graphs and samples.
        on_event: Called with each stage event.
    """

    def __init__(self, plan: ExportPlan, scratch: Path, on_event: OnEvent) -> None:
        self._plan, self._scratch, self._on_event = plan, scratch, on_event
        model = plan.dynamic_model
        module = checkpoint.load(model, plan.weights)
        self._module: nn.Module = module
        space = Workspace(work=scratch, scratch=scratch, on_event=on_event)
        calibration = int8.load_calibration(plan, space)
        assert calibration is not None
        self._calibration: Calibration = calibration
        self._model: ModelSpec = replace(
            model, components=tuple(cached_reference(c) for c in model.components)
        )
        self._evaluation = plan.evaluation_set(model)
        self._sources: dict[str, Session] = {}
        self._prepared: dict[str, Prepared] = {}
        self._opened: dict[str, tuple[Treatments, Session]] = {}
        self._ranges: dict[str, tuple[Treatments, Mapping[str, Range]]] = {}
        for component in model.components:
            self._prepare(component, on_event)

    @property
    def layers(self) -> list[str]:
        """Layers of all components that the recipe quantizes."""
        return [layer for p in self._prepared.values() for layer in p.layers]

    @property
    def weighted(self) -> frozenset[str]:
        """Layers with weights, which may be stored in INT8 without their activations."""
        return frozenset(layer for name, p in self._prepared.items() for layer in weighted(name, p))

    def _prepare(self, component: ComponentSpec, on_event: OnEvent) -> None:
        plan, folder = self._plan, self._scratch / component.name
        folder.mkdir()
        with stage(f"trace {component.name}", on_event):
            traced = self._traced(component, folder)
        assert plan.int8 is not None
        recipe = plan.int8.plan.recipe(component.name, plan.target.backend)
        quantized = None
        if recipe.quantizes:
            quantized = Quantization(recipe=recipe, samples=self._scratch)
        noted, graph = self._rewritten(traced, quantized, folder / "rewritten")
        self._sources[component.name] = CachedSession(open_graph(graph.path))
        if quantized is None:
            return
        own: Mapping[str, onnx.TensorProto] = {}
        if recipe.prepares_weights:
            # For a decoder the traced encoder is near enough to the one deployed.
            samples = self._samples(component.name, self._sources.get("encoder"))
            sampled = replace(quantized, samples=samples)
            with stage(f"round {component.name}", on_event):
                if recipe.rounding != "nearest":
                    unrounded = replace(sampled, recipe=replace(recipe, rounding="nearest"))
                    _, plain = self._changed(component, unrounded, folder / "unrounded")
                    own = {i.name: i for i in onnx.load(plain.path).graph.initializer}
                noted, graph = self._changed(component, sampled, folder / "rounded")
        assert graph.quantization is not None
        places = {n.name: p.modules for n in noted.graph.node if (p := onnx_scope(n)) is not None}
        self._prepared[component.name] = Prepared(
            graph=graph,
            model=onnx.load(graph.path),
            quantization=graph.quantization,
            places={n: places[n] for n in places if n in graph.quantization.treatments},
            own=own,
        )

    def _changed(
        self, component: ComponentSpec, quantized: Quantization, folder: Path
    ) -> tuple[onnx.ModelProto, Graph]:
        """The component made ready as its recipe says, traced and rewritten."""
        changed = component
        if quantized.recipe.prepares_weights:
            changed = prepare.prepare_component(component, self._module, quantized)
        return self._rewritten(self._traced(changed, folder), quantized, folder / "rewritten")

    def _samples(self, name: str, encoder: Session | None) -> Path:
        """Calibration samples of a component, in a folder of their own."""
        component = self._plan.dynamic_model.component(name)
        folder = Path(tempfile.mkdtemp(dir=self._scratch, prefix="samples-"))
        opened = None if name != "decoder" or encoder is None else lambda: encoder
        calibration = replace(self._calibration, folder=folder)
        return calibration.samples(self._plan.dynamic_model, component, opened)

    def _traced(self, component: ComponentSpec, folder: Path) -> Graph:
        folder.mkdir(exist_ok=True)
        program = trace.trace(self._module, component)
        return trace.to_onnx(program, component, self._plan.target.opset, folder)

    def _rewritten(
        self, traced: Graph, quantized: Quantization | None, out: Path
    ) -> tuple[onnx.ModelProto, Graph]:
        """The graph after the passes, while it still says where nodes come from and afterwards."""
        out.mkdir()
        annotated = passes.annotate(replace(traced, quantization=quantized), self._plan.target)
        return annotated.model, passes.write(annotated, out)

    def evaluate(self, kept: Mapping[str, Kept]) -> Evaluation:
        """Quantize everything but these layers, and hold the masks to PyTorch's."""
        sessions = dict(self._sources)
        for name, prepared in self._prepared.items():
            sessions[name] = self._quantized(name, prepared, kept, sessions.get("encoder"))
        sides = Sides(module=self._module, sources=self._sources, artifacts=sessions)
        return evaluate_masks(self._model, sides, self._evaluation, self._plan.target)

    def evaluate_target(self, kept: Mapping[str, Kept]) -> Evaluation:
        """The same as an export does it: converted and quantized by the target's own tools.

        What they refuse to make, as a file in which next to nothing is INT8, misses a gate.
        """
        asked = self._plan.int8
        assert asked is not None
        backend = self._plan.target.backend
        recipes = replace(
            asked.plan,
            recipes={
                (c.name, "default"): with_kept(asked.plan.recipe(c.name, backend), c.name, kept)
                for c in self._plan.dynamic_model.components
            },
        )
        plan = replace(
            self._plan,
            target=without_mask_gates(self._plan.target),
            int8=replace(asked, plan=recipes),
        )
        with tempfile.TemporaryDirectory(dir=self._scratch, prefix="deployed-") as name:
            folder = Path(name)
            calibration = replace(self._calibration, folder=folder / "calibration")
            calibration.folder.mkdir()
            try:
                space = Workspace(work=folder, scratch=folder, on_event=self._on_event)
                exported = pipeline.export_components(plan, self._module, calibration, space)
            except isolate.ConversionFailed:
                # A crash, or memory that ran out, says nothing of the masks.
                raise
            except CheckFailed:
                return Evaluation(mean_iou=0.0, min_iou=0.0, ranking_changes=0, failed_gates=1)
            with stage("evaluate", self._on_event) as running:
                parity = prove(plan, self._module, exported, running.on_progress)
        return evaluation_of(parity)

    def _quantized(
        self, name: str, prepared: Prepared, kept: Mapping[str, Kept], encoder: Session | None
    ) -> Session:
        """One component; the last one again where the same layers are kept.

        While a search looks at a decoder its encoder stays as it is, and its answers with it.
        """
        recipe = with_kept(prepared.quantization.recipe, name, kept)
        treatments = {n: recipe.treatment(p) for n, p in prepared.places.items()}
        on = self._opened["encoder"][0] if name == "decoder" and "encoder" in self._opened else {}
        key = {**treatments, **{f"encoder{SEPARATOR}{n}": t for n, t in on.items()}}
        last = self._opened.get(name)
        if last is not None and last[0] == key:
            return last[1]
        ranges: Mapping[str, Range] = {}
        if "w8a8" in treatments.values():
            ranges = self._ranges_of(name, prepared, on, encoder)
        path = self._scratch / f"{name}.judged.onnx"
        quantized = replace(prepared.quantization, recipe=recipe, treatments=treatments)
        model = with_own_weights(prepared.model, prepared.own, treatments)
        onnx_file.save(onnx_qdq.insert(model, quantized, ranges), path)
        session = open_graph(path)
        # A decoder gets other embeddings each time: its answers would only pile up.
        session = session if name == "decoder" else CachedSession(session)
        self._opened[name] = key, session
        return session

    def _ranges_of(
        self, name: str, prepared: Prepared, on: Treatments, encoder: Session | None
    ) -> Mapping[str, Range]:
        """Ranges of all activations; a decoder's on what this encoder gives."""
        last = self._ranges.get(name)
        if last is not None and last[0] == on:
            return last[1]
        samples = self._samples(name, encoder)
        quantized = replace(prepared.quantization, samples=samples)
        with stage(f"ranges {name}", self._on_event):
            ranges = activation_ranges.measure(
                prepared.model,
                onnx_qdq.activations_to_measure(prepared.model, quantized),
                quantized.feeds(),
                quantized.recipe.method,
                self._scratch,
            )
        shutil.rmtree(samples)
        self._ranges[name] = on, ranges
        return ranges


def with_own_weights(
    model: onnx.ModelProto, own: Mapping[str, onnx.TensorProto], treatments: Treatments
) -> onnx.ModelProto:
    """A graph whose weights were rounded, in which layers that float have those they had.

    Args:
        model: Rounded; not changed.
        own: Constant -> its values before; without any, the graph stays as it is.
        treatments: Of its nodes.
    """
    floating: set[str] = set()
    rounded: set[str] = set()
    for node in model.graph.node:
        if node.op_type in WEIGHTED:
            found = floating if treatments.get(node.name) == "keep_float" else rounded
            found.add(node.input[1])
    # A weight that two layers share stays rounded while one of them is quantized.
    names = (floating - rounded) & own.keys()
    if not names:
        return model
    out = onnx.ModelProto()
    out.CopyFrom(model)
    for constant in out.graph.initializer:
        if constant.name in names:
            constant.CopyFrom(own[constant.name])
    return out


def weighted(component: str, prepared: Prepared) -> frozenset[str]:
    """Layers of a component that hold a weight of a convolution or a matrix product."""
    constants = {i.name for i in prepared.model.graph.initializer}
    return frozenset(
        f"{component}{SEPARATOR}{prepared.places[n.name][-1]}"
        for n in prepared.model.graph.node
        if n.name in prepared.places and n.op_type in WEIGHTED and n.input[1] in constants
    )


def without_mask_gates(target: TargetProfile) -> TargetProfile:
    """Return a target without the gates on mask IoU. A search has its own; the others stay."""
    return replace(target, gates=replace(target.gates, mask_iou=0.0, mean_iou=0.0))


def evaluate_masks(
    model: ModelSpec, sides: Sides, evaluation: EvaluationSet, target: TargetProfile
) -> Evaluation:
    """Run a parity check and return its figures for a search."""
    gates = without_mask_gates(target).gates
    return evaluation_of(
        check(model, sides, evaluation, target=target.name, precision=target.precision, gates=gates)
    )


def evaluation_of(parity: ParityResult) -> Evaluation:
    """Return the figures of a parity check that was made without gates on mask IoU."""
    ious = [c.min_iou for c in parity.report.cases]
    return Evaluation(
        mean_iou=float(np.mean(ious)),
        min_iou=min(ious),
        ranking_changes=sum(c.best != c.artifact_best for c in parity.report.cases),
        failed_gates=len(parity.report.failures),
    )


def with_kept(recipe: Int8Recipe, component: str, kept: Mapping[str, Kept]) -> Int8Recipe:
    """A recipe with more exceptions, before its own."""
    more = []
    for layer, treatment in kept.items():
        owner, _, path = layer.partition(SEPARATOR)
        if owner == component:
            entry = LayerOverride(
                modules=(path,), treatment=treatment, reason="kept", recursive=False
            )
            more.append(entry)
    return replace(recipe, overrides=(*more, *recipe.overrides))


def open_graph(path: Path) -> Session:
    """An ONNX file in ONNX Runtime."""
    return OnnxSession(path, CPU)
