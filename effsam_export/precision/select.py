"""Select the nodes of a graph that stay in FP32 in FP16 exports. Imports neither torch nor ONNX.

A recipe names modules and operators of the PyTorch model. A traced program records for each node
the modules that it was called in. Torch's ONNX exporter copies this into the nodes' metadata
(`pkg.torch.onnx.*`), so that one rule selects from both kinds of graphs.
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
"""Module path that torch.export records for a node created outside all modules."""


@dataclass(frozen=True, kw_only=True)
class ModuleScope:
    """The modules and the operator that a node comes from.

    Attributes:
        modules: Paths of the modules it was called in, starting with the outermost (empty path).
        op: Operator name without namespace and overload: `layer_norm` for
            `aten.native_layer_norm.default`.
    """

    modules: tuple[str, ...]
    op: str


def fp32_nodes(model: onnx.ModelProto, recipe: Sequence[KeepFp32]) -> tuple[str, ...]:
    """Return the names of the nodes of an ONNX graph that stay in FP32, in the graph's order.

    The graph must have the exporter's metadata and its final node names. Nodes that the exporter
    inserted (such as `Split`) have no metadata. They stay in FP32 if both a producer and a consumer
    do, so that no value passes through FP16 in between.

    Raises:
        UsageError: Rules that select nothing, all in one message.
    """
    scopes = {n.name: scope for n in model.graph.node if (scope := onnx_scope(n)) is not None}
    selected = _selected(scopes, recipe)
    producers = {out: n.name for n in model.graph.node for out in n.output}
    users: dict[str, set[str]] = {}
    for node in model.graph.node:
        for value in node.input:
            users.setdefault(value, set()).add(node.name)
    for node in model.graph.node:
        if node.name not in scopes:
            fed = any(producers.get(value) in selected for value in node.input)
            used = any(users.get(value, set()) & selected for value in node.output)
            if fed and used:
                selected.add(node.name)
    return tuple(n.name for n in model.graph.node if n.name in selected)


def fp32_program_nodes(program: ExportedProgram, recipe: Sequence[KeepFp32]) -> frozenset[str]:
    """Return the names of the FX nodes of a traced program that stay in FP32.

    Raises:
        UsageError: Rules that select nothing, all in one message.
    """
    calls = (n for n in program.graph.nodes if n.op == "call_function")
    return frozenset(_selected({n.name: fx_scope(n) for n in calls}, recipe))


def fx_scope(node: Node) -> ModuleScope:
    """Return the scope of a node of a traced program."""
    stack = node.meta.get("nn_module_stack") or {}
    # The second call of a module is recorded as `path@1`.
    paths = tuple(re.sub(r"@\d+$", "", path) for path, _ in stack.values())
    return ModuleScope(modules=paths or ("",), op=op_name(str(node.target)))


def onnx_scope(node: onnx.NodeProto) -> ModuleScope | None:
    """Return the scope of a node of an exported graph, or None if it has no metadata."""
    notes = {p.key: p.value for p in node.metadata_props}
    if SCOPES not in notes or CLASSES not in notes:
        return None
    *paths, _ = ast.literal_eval(notes[SCOPES])
    return ModuleScope(
        modules=tuple("" if p == NOWHERE else re.sub(r"@\d+$", "", p) for p in paths) or ("",),
        op=op_name(ast.literal_eval(notes[CLASSES])[-1]),
    )


def op_name(target: str) -> str:
    """Return the name of an operator: `softmax` for `aten._softmax.default`."""
    parts = target.split(".")
    name = parts[1] if len(parts) > 1 else parts[0]
    return name.removeprefix("_").removeprefix("native_")


def matches(rule: KeepFp32, scope: ModuleScope) -> bool:
    """Return whether a rule keeps a node with this scope in FP32."""
    paths = scope.modules if rule.recursive else scope.modules[-1:]
    return (not rule.ops or scope.op in rule.ops) and any(
        fnmatchcase(path, pattern) for path in paths for pattern in rule.modules
    )


def _selected(scopes: Mapping[str, ModuleScope], recipe: Iterable[KeepFp32]) -> set[str]:
    """Return the nodes that a recipe selects; a rule that selects none is an error."""
    selected, unmatched = set[str](), []
    for rule in recipe:
        nodes = {name for name, scope in scopes.items() if matches(rule, scope)}
        if not nodes:
            unmatched.append(describe(rule))
        selected |= nodes
    if unmatched:
        raise UsageError(
            f"the FP16 recipe selects nothing in the graph by {'; '.join(unmatched)}",
            hint="`effsam lint` prints the modules and operators of the exported model",
        )
    return selected


def describe(rule: KeepFp32) -> str:
    """Describe a rule for a message: its operators, modules and component."""
    modules = " and ".join(f"`{m}`" for m in rule.modules)
    ops = " or ".join(f"`{o}`" for o in rule.ops)
    return f"{ops + ' in ' if ops else ''}{modules} of the {rule.component}"
