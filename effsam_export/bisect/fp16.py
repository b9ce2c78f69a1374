"""Evaluation of FP16 graphs for a search: FP16 is simulated on the CPU by rounding every result.

A layer is a module with its own operations, without those of its submodules. The component itself
is a layer too. Layers are kept in FP32 by recipe entries, as in an export.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx

from effsam_export.backends.onnx.session import OnnxSession
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
    from effsam_export.bisect.evaluations import Evaluation, Override
    from effsam_export.pipeline.plan import ExportPlan
    from effsam_export.spec.model import ComponentName, ComponentSpec, ModelSpec
    from effsam_export.util.progress import OnEvent


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One component, prepared for casting with different layers kept in FP32.

    Attributes:
        annotated: The rewritten graph with the exporter's metadata, which names each node's module.
        stripped: The same graph without the metadata; this one is cast.
        entries: Layer -> the recipe entry that keeps it in FP32.
    """

    annotated: onnx.ModelProto
    stripped: onnx.ModelProto
    entries: Mapping[str, KeepFp32]


class Fp16Evaluator:
    """Evaluates FP16 graphs in which some layers stay in FP32.

    Args:
        plan: Model, weights and evaluation images. The model's own FP16 recipe is not used.
        scratch: Folder for graphs.
        on_event: Called with each stage event.
    """

    def __init__(self, plan: ExportPlan, scratch: Path, on_event: OnEvent) -> None:
        loaded = checkpoint.load_with_facts(plan.dynamic_model, plan.weights)
        if loaded.facts.masks is not None:
            plan = plan.with_masks(loaded.facts.masks)
        self._plan, self._scratch = plan, scratch
        model = loaded.model
        self._module: nn.Module = loaded.module
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
        """Empty: FP16 has no treatment for the weights alone."""
        return frozenset()

    @property
    def evaluate_target(self) -> None:
        """None: the target's own FP16 is only evaluated by an export."""

    def entry(self, layer: str) -> KeepFp32:
        """Return the recipe entry that keeps a layer in FP32."""
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

    def evaluate(self, overrides: Mapping[str, Override]) -> Evaluation:
        """Cast everything but these layers to FP16, and compare the masks with PyTorch's."""
        sessions = {name: self._cast(name, overrides) for name in self._prepared}
        sides = Sides(module=self._module, sources=self._sources, artifacts=sessions)
        return evaluate_masks(self._model, sides, self._evaluation, self._plan.target)

    def _cast(self, name: str, layers: Iterable[str]) -> Session:
        """Return one component with these layers in FP32; the last session if nothing changed."""
        prepared = self._prepared[name]
        chosen = [prepared.entries[layer] for layer in layers if layer in prepared.entries]
        nodes = fp32_nodes(prepared.annotated, chosen)
        last = self._opened.get(name)
        if last is not None and last[0] == nodes:
            return last[1]
        rounding = round_fp16.apply(cast_fp16.apply(prepared.stripped, keep=nodes))
        session: Session = OnnxSession(rounding.SerializeToString(), CPU)
        # A decoder's embeddings differ in each evaluation, so its cache would only grow.
        session = session if name == "decoder" else CachedSession(session)
        self._opened[name] = nodes, session
        return session


def entries(component: ComponentName, model: onnx.ModelProto) -> dict[str, KeepFp32]:
    """Return a recipe entry for every module with operations of its own, by layer name.

    Args:
        component: Name of the component.
        model: Its graph, with the exporter's metadata.
    """
    scopes = [scope for node in model.graph.node if (scope := onnx_scope(node)) is not None]
    return {
        f"{component}{SEPARATOR}{path}": KeepFp32(
            component=component,
            modules=(path,),
            recursive=False,
            reason="",
            source="effsam bisect",
        )
        for path in dict.fromkeys(scope.modules[-1] for scope in scopes)
    }
