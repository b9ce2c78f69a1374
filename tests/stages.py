"""Stages that tests share: a stage cache for all workers of a session, and traces in a worker."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from effsam_export.spec.stages import Graph

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest
    from torch import nn
    from torch.export import ExportedProgram

    from effsam_export.parity.results import ParityReport
    from effsam_export.pipeline.request import ExportRequest
    from effsam_export.spec.model import ComponentSpec

MAX_BYTES = 64_000_000
"""Weights of a module whose trace is kept; MobileSAM has 40 MB."""


def sharing(request: ExportRequest, root: Path) -> ExportRequest:
    """The request with the cache at `root`, keyed as a build of many cells keys it."""
    import torch

    from effsam_export.pipeline import stage_keys
    from effsam_export.pipeline.stage_cache import StageCache

    parts = stage_keys.stage_parts(request, torch.get_num_threads())
    return replace(request, stage_cache=StageCache(root=root, parts=parts))


def export(request: ExportRequest, root: Path) -> ParityReport:
    """Export with what other tests left at `root`."""
    from effsam_export.pipeline import run

    return run.export(sharing(request, root))


class Traces:
    """The traces of a worker: a component with the same weights is traced and converted once.

    Always traced are large modules, and a component whose `wrap` was made for one export, as INT8
    makes them: it equals no other.
    """

    def __init__(self) -> None:
        self._programs: list[tuple[ComponentSpec, str, ExportedProgram]] = []
        self._onnx: dict[tuple[int, int], bytes] = {}

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Put these in the place of the product's functions."""
        from effsam_export.graph import trace as graph_trace

        patch.setattr(graph_trace, "trace", partial(self._trace, graph_trace.trace))
        patch.setattr(graph_trace, "to_onnx", partial(self._to_onnx, graph_trace.to_onnx))

    @staticmethod
    def uninstall(patch: pytest.MonkeyPatch) -> None:
        """Put the product's functions back."""
        from effsam_export.graph import trace as graph_trace

        for name in ("trace", "to_onnx"):
            shared = getattr(graph_trace, name)
            patch.setattr(graph_trace, name, shared.args[0])

    def _trace(
        self,
        trace: Callable[[nn.Module, ComponentSpec], ExportedProgram],
        module: nn.Module,
        component: ComponentSpec,
    ) -> ExportedProgram:
        if sum(p.nbytes for p in module.parameters()) > MAX_BYTES:
            return trace(module, component)
        weights = weights_hash(module)
        for known, of, program in self._programs:
            if of == weights and known == component:
                return program
        program = trace(module, component)
        self._programs.append((component, weights, program))
        return program

    def _to_onnx(
        self,
        convert: Callable[[ExportedProgram, ComponentSpec, int, Path], Graph],
        program: ExportedProgram,
        component: ComponentSpec,
        opset: int,
        out_dir: Path,
    ) -> Graph:
        key = (id(program), opset)
        if key not in self._onnx:
            graph = convert(program, component, opset, out_dir)
            # The id of a program that could be freed may come again.
            if any(program is known for *_, known in self._programs):
                self._onnx[key] = graph.path.read_bytes()
            return graph
        path = out_dir / f"{component.name}.onnx"
        path.write_bytes(self._onnx[key])
        return Graph(component=component, path=path, opset=opset)


def weights_hash(module: nn.Module) -> str:
    """A hash of a module's structure, numbers and public attributes.

    An attribute whose representation has an address makes the hash that object's own, so the
    module is traced again.
    """
    total = hashlib.sha256(repr(module).encode())
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        total.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        total.update(value.detach().contiguous().cpu().numpy().tobytes())
    for name, part in module.named_modules():
        public = {key: value for key, value in vars(part).items() if not key.startswith("_")}
        total.update(f"{name} {public!r}".encode())
    return total.hexdigest()
