"""Evaluation of INT8 graphs for a search, in ONNX Runtime and by the target's own quantizer.

ONNX Runtime simulates every target: a graph with other layers quantized is ready in seconds. The
activation ranges of an encoder are measured once, those of a decoder for each encoder it follows.
The result is a recipe by module, which the target's own quantizer takes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from effsam_export.backends.onnx import activation_ranges
from effsam_export.backends.onnx import quantize as onnx_qdq
from effsam_export.backends.onnx.session import OnnxSession
from effsam_export.bisect.evaluations import Evaluation
from effsam_export.bisect.search import SEPARATOR
from effsam_export.graph import onnx_file, passes, trace
from effsam_export.parity.cached import CachedSession, cached_reference
from effsam_export.parity.check import check
from effsam_export.parity.comparison import Sides
from effsam_export.pipeline import int8
from effsam_export.pipeline.int8_trial import trial
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
    from effsam_export.bisect.evaluations import Override
    from effsam_export.calibration.samples import Calibration
    from effsam_export.parity.evaluation_set import EvaluationSet
    from effsam_export.parity.results import ParityReport
    from effsam_export.pipeline.plan import ExportPlan
    from effsam_export.spec.int8 import Int8Recipe
    from effsam_export.spec.model import ComponentSpec, ModelSpec
    from effsam_export.spec.stages import Graph
    from effsam_export.spec.targets import TargetProfile
    from effsam_export.util.progress import OnEvent

CPU = "CPUExecutionProvider"

Treatments = Mapping[str, Treatment]
"""Node of a component -> its treatment."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One component, prepared for quantization with different overrides.

    Attributes:
        scopes: Node -> paths of the modules around it, for the nodes that can be quantized.
        original_weights: Constant -> its values before rounding; empty if nothing was rounded.
    """

    graph: Graph
    model: onnx.ModelProto
    quantization: Quantization
    scopes: Mapping[str, Sequence[str]]
    original_weights: Mapping[str, onnx.TensorProto]

    @property
    def layers(self) -> list[str]:
        """The innermost modules of the nodes, in the order of the graph."""
        name = self.graph.component.name
        return list(dict.fromkeys(f"{name}{SEPARATOR}{p[-1]}" for p in self.scopes.values()))


class Int8Evaluator:
    """Evaluates INT8 graphs with different overrides.

    Args:
        plan: Model, weights, evaluation images and the recipe to improve.
        scratch: Folder for graphs and samples.
        on_event: Called with each stage event.
    """

    def __init__(self, plan: ExportPlan, scratch: Path, on_event: OnEvent) -> None:
        loaded = checkpoint.load_with_facts(plan.dynamic_model, plan.weights)
        if loaded.facts.masks is not None:
            plan = plan.with_masks(loaded.facts.masks)
        self._plan, self._scratch, self._on_event = plan, scratch, on_event
        model, module = loaded.model, loaded.module
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
        """The layers of all components that the recipe quantizes."""
        return [layer for p in self._prepared.values() for layer in p.layers]

    @property
    def weighted(self) -> frozenset[str]:
        """The layers whose weights may be stored in INT8 without their activations."""
        return frozenset(layer for name, p in self._prepared.items() for layer in weighted(name, p))

    def _prepare(self, component: ComponentSpec, on_event: OnEvent) -> None:
        plan, folder = self._plan, self._scratch / component.name
        folder.mkdir()
        with stage(f"trace {component.name}", on_event):
            traced = self._traced(component, folder)
        assert plan.int8 is not None
        recipe = plan.int8.plan.recipe(component.name, plan.target.backend)
        quantization = None
        if recipe.quantizes:
            quantization = Quantization(recipe=recipe, samples=self._scratch)
        annotated, graph = self._rewritten(traced, quantization, folder / "rewritten")
        self._sources[component.name] = CachedSession(open_graph(graph.path))
        if quantization is None:
            return
        own: Mapping[str, onnx.TensorProto] = {}
        if recipe.prepares_weights:
            # The FP32 encoder is close enough to the INT8 one for a decoder's samples here.
            samples = self._samples(component.name, self._sources.get("encoder"))
            sampled = replace(quantization, samples=samples)
            with stage(f"round {component.name}", on_event):
                if recipe.rounding != "nearest":
                    unrounded = replace(sampled, recipe=replace(recipe, rounding="nearest"))
                    _, plain = self._prepare_weights(component, unrounded, folder / "unrounded")
                    own = {i.name: i for i in onnx.load(plain.path).graph.initializer}
                annotated, graph = self._prepare_weights(component, sampled, folder / "rounded")
        assert graph.quantization is not None
        scopes = {
            n.name: p.modules for n in annotated.graph.node if (p := onnx_scope(n)) is not None
        }
        self._prepared[component.name] = Prepared(
            graph=graph,
            model=onnx.load(graph.path),
            quantization=graph.quantization,
            scopes={n: scopes[n] for n in scopes if n in graph.quantization.treatments},
            original_weights=own,
        )

    def _prepare_weights(
        self, component: ComponentSpec, quantization: Quantization, folder: Path
    ) -> tuple[onnx.ModelProto, Graph]:
        """Prepare the weights of a component by its recipe, then trace and rewrite it."""
        prepared = component
        if quantization.recipe.prepares_weights:
            prepared = prepare.prepare_component(component, self._module, quantization)
        return self._rewritten(self._traced(prepared, folder), quantization, folder / "rewritten")

    def _samples(self, name: str, encoder: Session | None) -> Path:
        """Write the calibration samples of a component into a new folder."""
        component = self._plan.dynamic_model.component(name)
        folder = Path(tempfile.mkdtemp(dir=self._scratch, prefix="samples-"))
        open_encoder = None if name != "decoder" or encoder is None else lambda: encoder
        calibration = replace(self._calibration, folder=folder)
        return calibration.samples(self._plan.dynamic_model, component, open_encoder)

    def _traced(self, component: ComponentSpec, folder: Path) -> Graph:
        folder.mkdir(exist_ok=True)
        program = trace.trace(self._module, component)
        return trace.to_onnx(program, component, self._plan.target.opset, folder)

    def _rewritten(
        self, traced: Graph, quantization: Quantization | None, out: Path
    ) -> tuple[onnx.ModelProto, Graph]:
        """Return the rewritten graph with the exporter's metadata, and the file without it."""
        out.mkdir()
        annotated = passes.annotate(replace(traced, quantization=quantization), self._plan.target)
        return annotated.model, passes.write(annotated, out)

    def evaluate(self, overrides: Mapping[str, Override]) -> Evaluation:
        """Quantize with these overrides in ONNX Runtime, and compare the masks with PyTorch's."""
        sessions = dict(self._sources)
        for name, prepared in self._prepared.items():
            sessions[name] = self._quantized(name, prepared, overrides, sessions.get("encoder"))
        sides = Sides(module=self._module, sources=self._sources, artifacts=sessions)
        return evaluate_masks(self._model, sides, self._evaluation, self._plan.target)

    def evaluate_target(self, overrides: Mapping[str, Override]) -> Evaluation:
        """Export with these overrides by the target's own tools, and compare the masks.

        An export that they refuse misses a gate, such as a file with hardly any INT8 weights.
        """
        request = self._plan.int8
        assert request is not None
        backend = self._plan.target.backend
        recipes = replace(
            request.plan,
            recipes={
                (c.name, "default"): with_overrides(
                    request.plan.recipe(c.name, backend), c.name, overrides
                )
                for c in self._plan.dynamic_model.components
            },
        )
        plan = replace(
            self._plan,
            target=without_mask_gates(self._plan.target),
            int8=replace(request, plan=recipes),
        )
        with tempfile.TemporaryDirectory(dir=self._scratch, prefix="deployed-") as name:
            # A decoder's samples differ with its encoder.
            calibration = replace(self._calibration, folder=Path(name))
            report = trial(plan, self._module, calibration, Path(name), self._on_event)
        if report is None:
            return Evaluation(mean_iou=0.0, min_iou=0.0, ranking_changes=0, failed_gates=1)
        return evaluation_of(report)

    def _quantized(
        self,
        name: str,
        prepared: Prepared,
        overrides: Mapping[str, Override],
        encoder: Session | None,
    ) -> Session:
        """Return one quantized component; the last session if its treatments did not change.

        While a decoder is searched, the encoder's session and its cached outputs are reused.
        """
        recipe = with_overrides(prepared.quantization.recipe, name, overrides)
        treatments = {n: recipe.treatment(p) for n, p in prepared.scopes.items()}
        before: Treatments = {}
        if name == "decoder" and "encoder" in self._opened:
            before = self._opened["encoder"][0]
        key = {**treatments, **{f"encoder{SEPARATOR}{n}": t for n, t in before.items()}}
        last = self._opened.get(name)
        if last is not None and last[0] == key:
            return last[1]
        ranges: Mapping[str, Range] = {}
        if "w8a8" in treatments.values():
            ranges = self._ranges_of(name, prepared, before, encoder)
        path = self._scratch / f"{name}.evaluated.onnx"
        quantization = replace(prepared.quantization, recipe=recipe, treatments=treatments)
        model = with_original_weights(prepared.model, prepared.original_weights, treatments)
        onnx_file.save(onnx_qdq.insert(model, quantization, ranges), path)
        session = open_graph(path)
        # A decoder's embeddings differ in each evaluation, so its cache would only grow.
        session = session if name == "decoder" else CachedSession(session)
        self._opened[name] = key, session
        return session

    def _ranges_of(
        self, name: str, prepared: Prepared, before: Treatments, encoder: Session | None
    ) -> Mapping[str, Range]:
        """Measure the activation ranges of a component, a decoder's on the encoder's embeddings.

        Args:
            name: Name of the component.
            prepared: The component.
            before: Treatments of the encoder that a decoder follows.
            encoder: Session of that encoder.
        """
        last = self._ranges.get(name)
        if last is not None and last[0] == before:
            return last[1]
        samples = self._samples(name, encoder)
        quantization = replace(prepared.quantization, samples=samples)
        with stage(f"ranges {name}", self._on_event):
            ranges = activation_ranges.measure(
                prepared.model,
                onnx_qdq.activations_to_measure(prepared.model, quantization),
                quantization.feeds(),
                quantization.recipe.method,
                self._scratch,
            )
        shutil.rmtree(samples)
        self._ranges[name] = before, ranges
        return ranges


def with_original_weights(
    model: onnx.ModelProto, original: Mapping[str, onnx.TensorProto], treatments: Treatments
) -> onnx.ModelProto:
    """Return a graph with rounded weights in which floating-point layers have the original ones.

    Args:
        model: Graph with rounded weights; not changed.
        original: Constant -> its values before rounding; empty to return the graph as it is.
        treatments: Treatments of its nodes.
    """
    in_float: set[str] = set()
    rounded: set[str] = set()
    for node in model.graph.node:
        if node.op_type in WEIGHTED:
            kind = in_float if treatments.get(node.name) == "keep_float" else rounded
            kind.add(node.input[1])
    # A weight that two layers share stays rounded while one of them is quantized.
    names = (in_float - rounded) & original.keys()
    if not names:
        return model
    out = onnx.ModelProto()
    out.CopyFrom(model)
    for constant in out.graph.initializer:
        if constant.name in names:
            constant.CopyFrom(original[constant.name])
    return out


def weighted(component: str, prepared: Prepared) -> frozenset[str]:
    """Return the layers of a component with the weight of a convolution or matrix product."""
    constants = {i.name for i in prepared.model.graph.initializer}
    return frozenset(
        f"{component}{SEPARATOR}{prepared.scopes[n.name][-1]}"
        for n in prepared.model.graph.node
        if n.name in prepared.scopes and n.op_type in WEIGHTED and n.input[1] in constants
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
        check(
            model, sides, evaluation, target=target.name, precision=target.precision, gates=gates
        ).report
    )


def evaluation_of(report: ParityReport) -> Evaluation:
    """Return the figures of a parity check that was made without gates on mask IoU."""
    assert report.min_iou is not None
    assert report.mean_iou is not None
    return Evaluation(
        mean_iou=report.mean_iou,
        min_iou=report.min_iou,
        ranking_changes=sum(d.ranking_counts for d in report.decisions),
        failed_gates=len(report.failures),
    )


def with_overrides(
    recipe: Int8Recipe, component: str, overrides: Mapping[str, Override]
) -> Int8Recipe:
    """Return a recipe with more overrides, which take precedence over its own."""
    more = []
    for layer, treatment in overrides.items():
        owner, _, path = layer.partition(SEPARATOR)
        if owner == component:
            entry = LayerOverride(
                modules=(path,), treatment=treatment, reason="search", recursive=False
            )
            more.append(entry)
    return replace(recipe, overrides=(*more, *recipe.overrides))


def open_graph(path: Path) -> Session:
    """Open an ONNX file in ONNX Runtime on the CPU."""
    return OnnxSession(path, CPU)
