"""Read and check target files (`targets/*.toml`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from effsam_export import backends
from effsam_export.config.toml import (
    data_dir,
    faults,
    is_of_type,
    read_toml,
    refuse,
    unknown_name,
    value_fault,
)
from effsam_export.errors import UnknownNameError, UsageError, joined, shown
from effsam_export.spec.targets import Gates, LayoutName, Precision, TargetProfile
from effsam_export.util.numbers import to_number, to_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
LAYOUTS: tuple[LayoutName, ...] = get_args(LayoutName)
LAYOUT_BACKEND = "onnx"
"""The apps that have a layout run ONNX files."""
TARGET_KEYS = {
    "description": str,
    "backend": str,
    "precisions": list,
    "opset": int,
    "simplify": bool,
    "options": dict,
    "gates": dict,
}
OPTIONAL_KEYS = {"layout": str}
MIN_OPSET, MAX_OPSET = 18, 23
"""Opsets of torch's ONNX exporter: 18 is its internal opset, 23 the newest it supports."""
GATE_KEYS = {"mask_iou": float, "score_error": float, "cosine": float}
OPTIONAL_GATES = {"mean_iou": float}
OPTION_MINIMA = {"workspace_mib": 0}
"""Target options with another minimum than 1, of those that are whole numbers."""
MAX_OPTION = 1_000_000
_PARSERS: dict[type, Callable[[str], str | int | float | bool | None]] = {
    bool: lambda text: {"true": True, "false": False}.get(text.lower()),
    int: to_whole,
    float: to_number,
    str: str,
}
"""Type of a target option -> a function that returns its value, or None for wrong text."""


def target_names() -> tuple[str, ...]:
    """Return the names of the targets in this package."""
    return tuple(sorted(p.stem for p in data_dir("targets").glob("*.toml")))


def load_target(
    name: str, precision: str | None = None, options: Mapping[str, str] | None = None
) -> TargetProfile:
    """Read a target and select one of its precisions.

    Args:
        name: Name of a target, or the path of a TOML file.
        precision: One of the target's precisions; the first one if None.
        options: Target options as text (`--option`), which override those of the file.

    Raises:
        UnknownNameError: The target or the precision does not exist.
        UsageError: The target does not support the precision, or an option contradicts the
            precision, or the message lists every fault of the file or of the options.
    """
    path = Path(name) if name.endswith(".toml") else data_dir("targets") / f"{name}.toml"
    if not name.endswith(".toml") and name not in target_names():
        raise UnknownNameError("target", name, target_names())
    table = read_toml(path, "target file")
    problems = _target_faults(table)
    if problems:
        refuse("target file", path, problems)

    supported: list[Precision] = table["precisions"]
    if precision is not None and precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    if precision is not None and precision not in supported:
        raise UsageError(
            f"target `{path.stem}` does not support precision `{precision}`",
            hint=f"it supports {', '.join(f'`{p}`' for p in supported)}",
        )
    selected = next(p for p in supported if precision in (None, p))
    return TargetProfile(
        name=path.stem,
        description=table["description"],
        backend=table["backend"],
        precision=selected,
        precisions=tuple(supported),
        opset=table["opset"],
        simplify=table["simplify"],
        options=_options(table, selected, _parse_options(table["backend"], options or {})),
        gates=Gates(**{k: float(v) for k, v in table["gates"][selected].items()}),
        source=path.read_bytes(),
        layout=table.get("layout"),
    )


def _options(
    table: Mapping[str, Any], precision: Precision, given: Mapping[str, str | int | float | bool]
) -> dict[str, str | int | float | bool]:
    """Return the options of a target file with those of a precision and of the user.

    Raises:
        UsageError: The user gives an option another value than the precision needs.
    """
    needed = backends.BACKENDS[table["backend"]].precision_options.get(precision, {})
    problems = [
        f"option `{key}` is `{shown(given[key])}`, but precision `{precision}` needs `{value}`"
        for key, value in needed.items()
        if given.get(key, value) != value
    ]
    if problems:
        raise UsageError(joined(problems), hint="leave the option out, or give another precision")
    return {**table["options"], **given, **needed}


def _parse_options(backend: str, given: Mapping[str, str]) -> dict[str, str | int | float | bool]:
    """Convert the options of a backend from text to the types in its table."""
    known = backends.BACKENDS[backend].options
    values: dict[str, str | int | float | bool] = {}
    problems = []
    for key, text in given.items():
        if key not in known:
            problems.append(unknown_name(f"option of backend `{backend}`", key, known))
            continue
        kind = known[key]
        value = _PARSERS[kind](text)
        if value is None:
            expected = "true or false" if kind is bool else f"of type {kind.__name__}"
            problems.append(f"option `{key}` is `{shown(text)}`, but has to be {expected}")
        elif fault := option_fault(key, value, kind):
            problems.append(f"option `{key}` {fault}")
        else:
            values[key] = value
    if problems:
        raise UsageError(joined(problems))
    return values


def option_fault(key: str, value: object, kind: type) -> str | None:
    """Return why a value does not suit a target option, as the end of a sentence, or None."""
    if fault := value_fault(value, kind):
        return fault
    least = OPTION_MINIMA.get(key, 1)
    if kind is int and isinstance(value, int) and not least <= value <= MAX_OPTION:
        return f"is {value}, want {least} to {MAX_OPTION}"
    if isinstance(value, str) and not value.isprintable():
        return "has more than one line"
    return None


def _target_faults(table: Mapping[str, Any]) -> list[str]:
    """Return every fault of a target file, as sentences."""
    keys = {**TARGET_KEYS, **{k: v for k, v in OPTIONAL_KEYS.items() if k in table}}
    problems = faults(table, keys, "")
    valid = {k: v for k, v in table.items() if k in keys and is_of_type(v, keys[k])}
    backend = valid.get("backend")
    if "layout" in valid:
        if valid["layout"] not in LAYOUTS:
            problems.append(unknown_name("layout", shown(valid["layout"]), LAYOUTS))
        if backend in backends.BACKENDS and backend != LAYOUT_BACKEND:
            problems.append(f"a target with a `layout` has backend `{LAYOUT_BACKEND}`")
    if backend is not None and backend not in backends.BACKENDS:
        problems.append(unknown_name("backend", backend, backends.BACKENDS))
    elif backend is not None:
        known = backends.BACKENDS[backend].options
        for key, value in valid.get("options", {}).items():
            if key not in known:
                problems.append(unknown_name(f"option of backend `{backend}`", key, known))
            elif fault := option_fault(key, value, known[key]):
                problems.append(f"`options.{key}` {fault}")
    precisions = valid.get("precisions", [])
    if "precisions" in valid and not precisions:
        problems.append("`precisions` is empty")
    problems += [
        unknown_name("precision", shown(p), PRECISIONS) for p in precisions if p not in PRECISIONS
    ]
    problems += [f"`precisions` lists `{p}` twice" for p in PRECISIONS if precisions.count(p) > 1]
    if backend in backends.BACKENDS:
        available = backends.BACKENDS[backend].precisions
        problems += [
            f"backend `{backend}` does not support precision `{p}` (only {', '.join(available)})"
            for p in precisions
            if p in PRECISIONS and p not in available
        ]
    if not MIN_OPSET <= valid.get("opset", MIN_OPSET) <= MAX_OPSET:
        problems.append(f"`opset` is not from {MIN_OPSET} to {MAX_OPSET}")
    if "gates" not in valid:
        return problems
    gates = valid["gates"]
    problems += [unknown_name("key", k, PRECISIONS, "gates.") for k in gates if k not in PRECISIONS]
    for precision in PRECISIONS:
        if precision in gates:
            problems += _gate_faults(gates[precision], f"gates.{precision}.")
        elif precision in precisions:
            problems.append(f"`gates.{precision}` is missing")
    return problems


def _gate_faults(gate: object, where: str) -> list[str]:
    """Return the faults in the gates of one precision."""
    values = gate if isinstance(gate, dict) else {}
    keys = {**GATE_KEYS, **{k: v for k, v in OPTIONAL_GATES.items() if k in values}}
    problems = faults(gate, keys, where)
    for key in keys:
        # In this form the condition also refuses NaN, a gate that no value would fail.
        if key in values and is_of_type(values[key], float) and not 0 <= values[key] <= 1:
            problems.append(f"`{where}{key}` is not between 0 and 1")
    return problems
