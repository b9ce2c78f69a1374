"""The judge of a search for what has to stay in FP32: graphs cast to FP16 that a CPU rounds.

A layer is a module with the operations that lie in it and in no module inside it, the component
itself included. It is kept as an entry of a recipe keeps it, so what is judged is what is exported.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx

from effsam_export.backends.onnx.backend import OnnxSession
from effsam_export.bisect.int8 import CPU, evaluation_of, open_graph, others
from effsam_export.bisect.search import SEPARATOR
from effsam_export.graph import passes, trace
from effsam_export.graph.passes import cast_fp16, round_fp16
from effsam_export.parity.cached import CachedSession, cached_reference
from effsam_export.parity.check import check
from effsam_export.parity.comparison import Sides
from effsam_export.pipeline.prove import evaluation_images
from effsam_export.precision.select import fp32_nodes, onnx_scope
from effsam_export.spec.model import KeepFp32
from effsam_export.util.progress import stage
from effsam_export.weights import checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from torch import nn

    from effsam_export.backends import Session
    from effsam_export.bisect.search import Evaluation, Kept
    from effsam_export.config.parity import ParityImage
    from effsam_export.pipeline.request import ExportRequest
    from effsam_export.spec.model import ComponentName, ComponentSpec, ModelSpec
    from effsam_export.util.progress import OnEvent


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One component, ready to be cast in any way.

    Attributes:
        noted: The rewritten graph with the exporter's notes, which say where a node comes from.
        bare: The same without them: what is cast.
        entries: Layer -> the recipe's entry that keeps it.
    """

    noted: onnx.ModelProto
    bare: onnx.ModelProto
    entries: Mapping[str, KeepFp32]


class Fp16Evaluator:
    """Everything that judgements share.

    Args:
        request: Model, weights and photographs; the model's own recipe is not used.
        scratch: Folder for graphs.
        on_event: Called with each stage event.
    """

    def __init__(self, request: ExportRequest, scratch: Path, on_event: OnEvent) -> None:
        self._request, self._scratch = request, scratch
        self._module: nn.Module = checkpoint.load(request.model, request.checkpoint)
        self._model: ModelSpec = replace(
            request.model, components=tuple(cached_reference(c) for c in request.model.components)
        )
        self._images: tuple[ParityImage, ...]
        self._images, _ = evaluation_images(request.model, request.parity_file)
        self._sources: dict[str, Session] = {}
        self._prepared: dict[str, Prepared] = {}
        self._opened: dict[str, tuple[tuple[str, ...], Session]] = {}
        for component in request.model.components:
            self._prepare(component, on_event)

    @property
    def layers(self) -> list[str]:
        """Layers of all components, in the order of the graphs."""
        return [layer for p in self._prepared.values() for layer in p.entries]

    @property
    def weighted(self) -> frozenset[str]:
        """None: FP16 has no half way."""
        return frozenset()

    @property
    def evaluate_target(self) -> None:
        """Not asked: what a target makes of FP16 the export judges."""

    def entry(self, layer: str) -> KeepFp32:
        """The recipe's entry that keeps a layer."""
        return self._prepared[layer.partition(SEPARATOR)[0]].entries[layer]

    def _prepare(self, component: ComponentSpec, on_event: OnEvent) -> None:
        folder = self._scratch / component.name
        folder.mkdir()
        with stage(f"trace {component.name}", on_event):
            program = trace.trace(self._module, component)
            traced = trace.to_onnx(program, component, self._request.target.opset, folder)
        noted = onnx.load(traced.path)
        for name, apply in passes.pipeline(self._request.target):
            if name != "strip_debug_info":
                noted, _ = apply(noted)
        out = folder / "rewritten"
        out.mkdir()
        graph = passes.rewrite(traced, self._request.target, out)
        self._sources[component.name] = CachedSession(open_graph(graph.path))
        self._prepared[component.name] = Prepared(
            noted=noted, bare=onnx.load(graph.path), entries=entries(component.name, noted)
        )

    def evaluate(self, kept: Mapping[str, Kept]) -> Evaluation:
        """Cast everything but these layers, and hold the masks to PyTorch's."""
        sessions = {name: self._cast(name, kept) for name in self._prepared}
        sides = Sides(module=self._module, sources=self._sources, artifacts=sessions)
        return evaluation_of(check(self._model, others(self._request.target), sides, self._images))

    def _cast(self, name: str, kept: Iterable[str]) -> Session:
        """One component; the last one again where the same nodes are kept."""
        prepared = self._prepared[name]
        chosen = [prepared.entries[layer] for layer in kept if layer in prepared.entries]
        nodes = fp32_nodes(prepared.noted, chosen)
        last = self._opened.get(name)
        if last is not None and last[0] == nodes:
            return last[1]
        rounding = round_fp16.apply(cast_fp16.apply(prepared.bare, keep=nodes))
        session: Session = OnnxSession(rounding.SerializeToString(), CPU)
        # A decoder gets other embeddings each time: its answers would only pile up.
        session = session if name == "decoder" else CachedSession(session)
        self._opened[name] = nodes, session
        return session


def entries(component: ComponentName, model: onnx.ModelProto) -> dict[str, KeepFp32]:
    """An entry for every module with operations of its own.

    Args:
        component: Whose graph it is.
        model: With the exporter's notes.
    """
    places = [place for node in model.graph.node if (place := onnx_scope(node)) is not None]
    return {
        f"{component}{SEPARATOR}{path}": KeepFp32(
            component=component,
            modules=(path,),
            recursive=False,
            reason="",
            source="effsam bisect",
        )
        for path in dict.fromkeys(p.modules[-1] for p in places)
    }
