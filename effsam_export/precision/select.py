"""A model's precision recipe -> the nodes of a graph that stay in FP32. No torch, no ONNX import.

A recipe names modules and operations, as the author of a model sees them. A traced program says of
each node which modules it was called in; torch's ONNX exporter copies that into the nodes' metadata
(`pkg.torch.onnx.*`), so both kinds of graph are selected from by one rule.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from effsam_export.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import onnx
    from torch.export import ExportedProgram
    from torch.fx import Node

    from effsam_export.spec.model import KeepFp32

SCOPES = "pkg.torch.onnx.name_scopes"
CLASSES = "pkg.torch.onnx.class_hierarchy"
NOWHERE = "_empty_nn_module_stack_from_metadata_hook"
"""What torch.export writes for a node that was made outside every module."""


@dataclass(frozen=True, kw_only=True)
class ModuleScope:
    """Where a node comes from.

    Attributes:
        modules: Paths of the modules it was called in, outermost (the empty path) first, at least
            that one.
        op: Name of the operation without namespace and overload, `layer_norm` for
            `aten.native_layer_norm.default`.
    """

    modules: tuple[str, ...]
    op: str


def fp32_nodes(model: onnx.ModelProto, recipe: Sequence[KeepFp32]) -> tuple[str, ...]:
    """Names of the nodes of an ONNX graph that stay in FP32, in the graph's order.

    To be called while the exporter's metadata is still there, on the nodes' final names. Nodes the
    exporter made up (it writes `Split` for some chains) stay with their neighbours: in FP32 if one
    that feeds them and one that uses them do, or a value would go through FP16 half-way.

    Raises:
        UsageError: Entries that select nothing, all of them in one message.
    """
    places = {n.name: place for n in model.graph.node if (place := onnx_scope(n)) is not None}
    chosen = _chosen(places, recipe)
    makers = {out: n.name for n in model.graph.node for out in n.output}
    users: dict[str, set[str]] = {}
    for node in model.graph.node:
        for value in node.input:
            users.setdefault(value, set()).add(node.name)
    for node in model.graph.node:
        if node.name not in places:
            fed = any(makers.get(value) in chosen for value in node.input)
            used = any(users.get(value, set()) & chosen for value in node.output)
            if fed and used:
                chosen.add(node.name)
    return tuple(n.name for n in model.graph.node if n.name in chosen)


def fp32_program_nodes(program: ExportedProgram, recipe: Sequence[KeepFp32]) -> frozenset[str]:
    """Names of the FX nodes of a traced program that stay in FP32.

    Raises:
        UsageError: Entries that select nothing, all of them in one message.
    """
    calls = (n for n in program.graph.nodes if n.op == "call_function")
    return frozenset(_chosen({n.name: fx_scope(n) for n in calls}, recipe))


def fx_scope(node: Node) -> ModuleScope:
    """Where a node of a traced program comes from."""
    stack = node.meta.get("nn_module_stack") or {}
    # `torch.nn.Module.__call__` a second time leaves `path@1`.
    paths = tuple(re.sub(r"@\d+$", "", path) for path, _ in stack.values())
    return ModuleScope(modules=paths or ("",), op=op_name(str(node.target)))


def onnx_scope(node: onnx.NodeProto) -> ModuleScope | None:
    """Where a node of an exported graph comes from; None where the exporter does not say."""
    notes = {p.key: p.value for p in node.metadata_props}
    if SCOPES not in notes or CLASSES not in notes:
        return None
    *paths, _ = ast.literal_eval(notes[SCOPES])
    return ModuleScope(
        modules=tuple("" if p == NOWHERE else re.sub(r"@\d+$", "", p) for p in paths) or ("",),
        op=op_name(ast.literal_eval(notes[CLASSES])[-1]),
    )


def op_name(target: str) -> str:
    """The bare name of an operation: `softmax` for `aten._softmax.default`, `add` for `add`."""
    parts = target.split(".")
    name = parts[1] if len(parts) > 1 else parts[0]
    return name.removeprefix("_").removeprefix("native_")


def keeps(entry: KeepFp32, place: ModuleScope) -> bool:
    """Whether an entry of a recipe keeps a node of this place in FP32."""
    paths = place.modules if entry.recursive else place.modules[-1:]
    return (not entry.ops or place.op in entry.ops) and any(
        fnmatchcase(path, pattern) for path in paths for pattern in entry.modules
    )


def _chosen(places: Mapping[str, ModuleScope], recipe: Iterable[KeepFp32]) -> set[str]:
    """The nodes a recipe selects; an entry that selects none has rotted, and is an error."""
    chosen, idle = set[str](), []
    for entry in recipe:
        found = {name for name, place in places.items() if keeps(entry, place)}
        if not found:
            idle.append(describe(entry))
        chosen |= found
    if idle:
        raise UsageError(
            f"the precision recipe keeps what is not in the graph: {'; '.join(idle)}",
            hint="name modules and operations of the export form, as `effsam lint` shows them",
        )
    return chosen


def describe(entry: KeepFp32) -> str:
    """An entry of a recipe for a message."""
    modules = " and ".join(f"`{m}`" for m in entry.modules)
    ops = " or ".join(f"`{o}`" for o in entry.ops)
    return f"{ops + ' in ' if ops else ''}{modules} of the {entry.component}"
