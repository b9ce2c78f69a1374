"""The judge of a search for what has to stay in FP32: graphs cast to FP16 that a CPU rounds.

A layer is a module with the operations that lie in it and in no module inside it, the component
itself included. It is kept as an entry of a recipe keeps it, so what is judged is what is exported.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx

from effsam_export.backends.onnx.backend import OnnxSession
from effsam_export.bisect.int8 import CPU, evaluate_masks, open_graph
from effsam_export.bisect.search import SEPARATOR
from effsam_export.graph import passes, trace
from effsam_export.graph.passes import cast_fp16, round_fp16
from effsam_export.parity.cached import CachedSession, cached_reference
from effsam_export.parity.comparison import Sides
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
    from effsam_export.pipeline.plan import ExportPlan
    from effsam_export.spec.model import ComponentName, ComponentSpec, ModelSpec
    from effsam_export.util.progress import OnEvent


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One component, ready to be cast in any way.

    Attributes:
        annotated: The rewritten graph with the exporter's metadata, which names each node's module.
        stripped: The same graph without the metadata; this one is cast.
        entries: Layer -> the recipe's entry that keeps it.
    """

    annotated: onnx.ModelProto
    stripped: onnx.ModelProto
    entries: Mapping[str, KeepFp32]


class Fp16Evaluator:
    """Everything that judgements share.

    Args:
        plan: Model, weights and evaluation images; the model's own recipe is not used.
        scratch: Folder for graphs.
        on_event: Called with each stage event.
    """

    def __init__(self, plan: ExportPlan, scratch: Path, on_event: OnEvent) -> None:
        self._plan, self._scratch = plan, scratch
        model = plan.dynamic_model
        self._module: nn.Module = checkpoint.load(model, plan.weights)
        self._model: ModelSpec = replace(
            model, components=tuple(cached_reference(c) for c in model.components)
        )
        self._evaluation = plan.evaluation_set(model)
        self._sources: dict[str, Session] = {}
        self._prepared: dict[str, Prepared] = {}
        self._opened: dict[str, tuple[tuple[str, ...], Session]] = {}
        for component in model.components:
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
            traced = trace.to_onnx(program, component, self._plan.target.opset, folder)
        annotated = passes.annotate(traced, self._plan.target)
        out = folder / "rewritten"
        out.mkdir()
        graph = passes.write(annotated, out)
        self._sources[component.name] = CachedSession(open_graph(graph.path))
        self._prepared[component.name] = Prepared(
            annotated=annotated.model,
            stripped=onnx.load(graph.path),
            entries=entries(component.name, annotated.model),
        )

    def evaluate(self, kept: Mapping[str, Kept]) -> Evaluation:
        """Cast everything but these layers, and hold the masks to PyTorch's."""
        sessions = {name: self._cast(name, kept) for name in self._prepared}
        sides = Sides(module=self._module, sources=self._sources, artifacts=sessions)
        return evaluate_masks(self._model, sides, self._evaluation, self._plan.target)

    def _cast(self, name: str, kept: Iterable[str]) -> Session:
        """One component; the last one again where the same nodes are kept."""
        prepared = self._prepared[name]
        chosen = [prepared.entries[layer] for layer in kept if layer in prepared.entries]
        nodes = fp32_nodes(prepared.annotated, chosen)
        last = self._opened.get(name)
        if last is not None and last[0] == nodes:
            return last[1]
        rounding = round_fp16.apply(cast_fp16.apply(prepared.stripped, keep=nodes))
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
