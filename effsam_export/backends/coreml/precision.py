"""Keep the operations that an FP16 recipe names in FP32 while coremltools converts a program.

coremltools copies the `debug_handle` of an FX node to every operation made from that node, through
all passes and fusions. The FP16 pass skips the operations with the handles of the recipe's nodes.
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
"""Key of the node metadata that coremltools copies to the operations made from the node."""


@dataclass(frozen=True, kw_only=True)
class Fp32Nodes:
    """The FX nodes of a program that stay in FP32.

    Attributes:
        handles: Their `debug_handle` numbers.
        nodes: Their names.
    """

    handles: frozenset[int]
    nodes: tuple[str, ...]

    def may_cast(self, op: Any) -> bool:  # noqa: ANN401 - an operation of coremltools
        """Return whether the FP16 pass may cast an operation."""
        from coremltools.converters.mil.mil.scope import ScopeSource

        return self.handles.isdisjoint(op.scopes.get(ScopeSource.EXIR_DEBUG_HANDLE) or ())


def number_nodes(program: ExportedProgram) -> None:
    """Number the operations of a program in `debug_handle`."""
    for i, node in enumerate(program.graph.nodes):
        if node.op == "call_function":
            node.meta[HANDLE] = i


def fp32_nodes(program: ExportedProgram, recipe: Sequence[KeepFp32]) -> Fp32Nodes:
    """Return the nodes of a numbered program that a recipe keeps in FP32.

    Raises:
        UsageError: An entry of the recipe selects no node.
    """
    names = fp32_program_nodes(program, recipe) if recipe else frozenset()
    nodes = tuple(n for n in program.graph.nodes if n.name in names)
    return Fp32Nodes(
        handles=frozenset(n.meta[HANDLE] for n in nodes),
        nodes=tuple(n.name for n in nodes),
    )
