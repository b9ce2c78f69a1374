"""Which operations stay in FP32: from a precision recipe to the operations of an ML program.

coremltools carries one number of every FX node, its `debug_handle`, through all its passes and
fusions to the operations that came of the node. So the nodes that a recipe names are numbered
here, and the pass that casts to FP16 is told to leave alone what bears one of those numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from effsam_export.precision.select import fp32_program_nodes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.export import ExportedProgram

    from effsam_export.spec.model import KeepFp32

HANDLE = "debug_handle"
"""Key in the metadata of an FX node that coremltools copies to what it makes of the node."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The part of a program that stays in FP32.

    Attributes:
        handles: Numbers of its FX nodes.
        nodes: Their names.
    """

    handles: frozenset[int]
    nodes: tuple[str, ...]

    def casts(self, op: Any) -> bool:  # noqa: ANN401 - an operation of coremltools
        """Whether the cast to FP16 may take an operation of the program that is being made."""
        from coremltools.converters.mil.mil.scope import ScopeSource

        return self.handles.isdisjoint(op.scopes.get(ScopeSource.EXIR_DEBUG_HANDLE) or ())


def number_nodes(program: ExportedProgram) -> None:
    """Give every operation of a program its place as `debug_handle`."""
    for i, node in enumerate(program.graph.nodes):
        if node.op == "call_function":
            node.meta[HANDLE] = i


def kept(program: ExportedProgram, recipe: Sequence[KeepFp32]) -> Kept:
    """The nodes of a numbered program that a recipe keeps in FP32.

    Raises:
        UsageError: Entries of the recipe that select nothing.
    """
    names = fp32_program_nodes(program, recipe) if recipe else frozenset()
    nodes = tuple(n for n in program.graph.nodes if n.name in names)
    return Kept(
        handles=frozenset(n.meta[HANDLE] for n in nodes),
        nodes=tuple(n.name for n in nodes),
    )
