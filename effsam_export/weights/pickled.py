"""The tensors of a pickled module, by their names in `state_dict`, without its classes.

FastSAM and the globally pruned SlimSAM are distributed as pickled modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from effsam_export.weights.inert import Record, Unreadable
from effsam_export.weights.tensors import is_tensor

DICTIONARIES = ("collections.OrderedDict", "collections.defaultdict")
MAX_DEPTH = 64
"""Largest depth of nested modules; the deepest known file has nine."""
MAX_WORK = 10_000_000
"""Largest sum of table lengths and name lengths over all modules. A module that several others
hold counts for each of them: modules that hold the next one twice would take forever."""


def module_tensors(module: Record) -> dict[str, Record]:
    """Return the inert values of a module's tensors, in the order of its state dict.

    Raises:
        Unreadable: The modules are nested too deeply, or there are too many.
    """
    found: dict[str, Record] = {}
    waiting = [("", module, 0)]
    work = 0
    while waiting:
        prefix, part, depth = waiting.pop()
        tables = [as_mapping(part.attribute(t)) or {} for t in ("_parameters", "_buffers")]
        children = as_mapping(part.attribute("_modules")) or {}
        transient = as_members(part.attribute("_non_persistent_buffers_set"))
        work += 1 + sum(map(len, (*tables, children, transient)))
        work += len(prefix) * (1 + sum(map(len, (*tables, children))))
        if depth > MAX_DEPTH or work > MAX_WORK:
            raise Unreadable("its modules are nested too deeply, or hold each other")
        skipped = {name for name in transient if isinstance(name, str)}
        for name, value in (item for table in tables for item in table.items()):
            if isinstance(name, str) and is_tensor(value) and name not in skipped:
                found[f"{prefix}{name}"] = value
        below = [
            (f"{prefix}{name}.", child, depth + 1)
            for name, child in children.items()
            if isinstance(name, str) and isinstance(child, Record)
        ]
        waiting += reversed(below)
    return found


def as_mapping(value: object) -> Mapping[Any, Any] | None:
    """Return the entries of a dictionary of any class; None if the value is none."""
    if isinstance(value, Record) and (value.entries is not None or value.kind in DICTIONARIES):
        return value.entries or {}
    return value if isinstance(value, Mapping) else None


def as_members(value: object) -> list[Any]:
    """Return the members of a set, which a pickle adds to it or gives as its argument."""
    if not isinstance(value, Record):
        return []
    members = [m for argument in value.args if isinstance(argument, list) for m in argument]
    return [*members, *(value.members or ())]
