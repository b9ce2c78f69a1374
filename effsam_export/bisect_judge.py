"""The judge of a search: quantized graphs in ONNX Runtime, held to PyTorch on real photographs.

ONNX Runtime stands in for every target here: ranges are measured once, and a graph with other
layers quantized is ready in seconds. What is found is a recipe by module, which the target's own
quantizer takes; whether it holds there, the export decides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx

from effsam_export import int8, onnx_file, passes, pipeline, trace
from effsam_export.backends.onnxruntime import OnnxSession
from effsam_export.bisect import Verdict
from effsam_export.models import loading
from effsam_export.parity.check import Sides, check
from effsam_export.parity.memo import Remembered, remembering
from effsam_export.precision.select import onnx_place
from effsam_export.progress import stage
from effsam_export.quantize import activation_ranges, onnx_qdq, prepare
from effsam_export.quantize.plan import Exception8, Quantization
from effsam_export.quantize.treatments import WEIGHTED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import nn

    from effsam_export.backends import Session
    from effsam_export.bisect import Kept
    from effsam_export.calibration.samples import Calibration
    from effsam_export.parity.results import ParityReport
    from effsam_export.pipeline import ExportRequest
    from effsam_export.profiles import ParityImage
    from effsam_export.progress import Observer
    from effsam_export.quantize.activation_ranges import Range
    from effsam_export.quantize.plan import Int8Recipe, Treatment
    from effsam_export.spec import ComponentSpec, Graph, ModelSpec

CPU = "CPUExecutionProvider"
SEPARATOR = ":"
"""Between component and module path in the name of a layer."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One component, ready to be quantized in any way.

    Attributes:
        places: Node -> paths of the modules it lies in, for the nodes that could be quantized.
        ranges: Of the activations, measured once.
    """

    graph: Graph
    model: onnx.ModelProto
    quantization: Quantization
    places: Mapping[str, Sequence[str]]
    ranges: Mapping[str, Range]

    @property
    def layers(self) -> list[str]:
        """Innermost modules, in the order of the graph."""
        name = self.graph.component.name
        return list(dict.fromkeys(f"{name}{SEPARATOR}{p[-1]}" for p in self.places.values()))


class Bench:
    """Everything that judgements share.

    Args:
        request: Model, weights, photographs and the recipe that is to be mended.
        scratch: Folder for graphs and samples.
        observer: Told of the stages.
    """

    def __init__(self, request: ExportRequest, scratch: Path, observer: Observer) -> None:
        self._request, self._scratch = request, scratch
        module = loading.load(request.model, request.checkpoint)
        self._module: nn.Module = module
        calibration = int8.calibrated(request, scratch, observer)
        assert calibration is not None
        self._model: ModelSpec = replace(
            request.model, components=tuple(remembering(c) for c in request.model.components)
        )
        self._images: tuple[ParityImage, ...]
        self._images, _ = pipeline.judged_by(request.model, request.parity_file)
        self._sources: dict[str, Session] = {}
        self._prepared: dict[str, Prepared] = {}
        self._opened: dict[str, tuple[Mapping[str, Treatment], Session]] = {}
        for component in request.model.components:
            self._prepare(component, calibration, observer)

    @property
    def layers(self) -> list[str]:
        """Layers of all components that the recipe quantizes."""
        return [layer for p in self._prepared.values() for layer in p.layers]

    @property
    def weighted(self) -> frozenset[str]:
        """Layers with weights, which may be stored in INT8 without their activations."""
        return frozenset(layer for name, p in self._prepared.items() for layer in weighted(name, p))

    def _prepare(
        self, component: ComponentSpec, calibration: Calibration, observer: Observer
    ) -> None:
        request, folder = self._request, self._scratch / component.name
        folder.mkdir()
        with stage(f"trace {component.name}", observer):
            traced = self._traced(component, folder)
        assert request.int8 is not None
        recipe = request.int8.plan.recipe(component.name, request.target.backend)
        quantized = None
        if recipe.quantizes:
            # The traced encoder is near enough to the one deployed to calibrate a decoder on.
            encoder = self._sources.get("encoder")
            samples = calibration.samples(
                request.model,
                component,
                None if component.name != "decoder" or encoder is None else lambda: encoder,
            )
            quantized = Quantization(recipe=recipe, samples=samples)
        raw, graph = self._rewritten(traced, quantized, folder / "rewritten")
        self._sources[component.name] = Remembered(open_graph(graph.path))
        if quantized is None:
            return
        if recipe.prepares:
            with stage(f"round {component.name}", observer):
                changed = prepare.prepared(component, self._module, quantized)
                traced = self._traced(changed, folder / "rounded")
                raw, graph = self._rewritten(traced, quantized, folder / "rounded" / "rewritten")
        assert graph.quantization is not None
        model = onnx.load(graph.path)
        with stage(f"ranges {component.name}", observer):
            ranges = activation_ranges.measure(
                model,
                onnx_qdq.wanted_tensors(model, graph.quantization),
                graph.quantization.feeds(),
                recipe.method,
                folder,
            )
        places = {n.name: p.modules for n in raw.graph.node if (p := onnx_place(n)) is not None}
        self._prepared[component.name] = Prepared(
            graph=graph,
            model=model,
            quantization=graph.quantization,
            places={n: places[n] for n in graph.quantization.treatments if n in places},
            ranges=ranges,
        )

    def _traced(self, component: ComponentSpec, folder: Path) -> Graph:
        folder.mkdir(exist_ok=True)
        program = trace.trace(self._module, component)
        return trace.to_onnx(program, component, self._request.target.opset, folder)

    def _rewritten(
        self, traced: Graph, quantized: Quantization | None, out: Path
    ) -> tuple[onnx.ModelProto, Graph]:
        """The graph as it was traced, which says where nodes come from, and after the passes."""
        out.mkdir()
        raw = onnx.load(traced.path)
        graph = replace(traced, quantization=quantized)
        return raw, passes.rewrite(graph, self._request.target, out)

    def judge(self, kept: Mapping[str, Kept]) -> Verdict:
        """Quantize everything but these layers, and hold the masks to PyTorch's."""
        sessions = dict(self._sources)
        for name, prepared in self._prepared.items():
            sessions[name] = self._quantized(name, prepared, kept)
        sides = Sides(module=self._module, sources=self._sources, artifacts=sessions)
        report = check(self._model, self._request.target, sides, self._images).report
        return verdict_of(report)

    def _quantized(self, name: str, prepared: Prepared, kept: Mapping[str, Kept]) -> Session:
        """One component; the last one again where the same layers are kept.

        While a search looks at a decoder its encoder stays as it is, and its answers with it.
        """
        recipe = with_kept(prepared.quantization.recipe, name, kept)
        treatments = {n: recipe.treatment(p) for n, p in prepared.places.items()}
        last = self._opened.get(name)
        if last is not None and last[0] == treatments:
            return last[1]
        path = self._scratch / f"{name}.judged.onnx"
        quantized = replace(prepared.quantization, recipe=recipe, treatments=treatments)
        onnx_file.save(onnx_qdq.insert(prepared.model, quantized, prepared.ranges), path)
        session = open_graph(path)
        # A decoder gets other embeddings each time: its answers would only pile up.
        session = session if name == "decoder" else Remembered(session)
        self._opened[name] = treatments, session
        return session


def weighted(component: str, prepared: Prepared) -> frozenset[str]:
    """Layers of a component that hold a weight of a convolution or a matrix product."""
    constants = {i.name for i in prepared.model.graph.initializer}
    return frozenset(
        f"{component}{SEPARATOR}{prepared.places[n.name][-1]}"
        for n in prepared.model.graph.node
        if n.name in prepared.places and n.op_type in WEIGHTED and n.input[1] in constants
    )


def verdict_of(report: ParityReport) -> Verdict:
    """What a search is told of a parity check."""
    ious = [c.answer_iou for c in report.cases]
    return Verdict(
        mean=float(np.mean(ious)),
        least=min(ious),
        switched=sum(c.winner != c.found_winner for c in report.cases),
    )


def with_kept(recipe: Int8Recipe, component: str, kept: Mapping[str, Kept]) -> Int8Recipe:
    """A recipe with more exceptions, before its own."""
    more = []
    for layer, treatment in kept.items():
        owner, _, path = layer.partition(SEPARATOR)
        if owner == component:
            entry = Exception8(modules=(path,), treatment=treatment, reason="kept", alone=True)
            more.append(entry)
    return replace(recipe, exceptions=(*more, *recipe.exceptions))


def open_graph(path: Path) -> Session:
    """An ONNX file in ONNX Runtime."""
    return OnnxSession(path, CPU)
