"""Target files (`targets/*.toml`), checked as they are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from effsam_export import backends
from effsam_export.config.toml import data_dir, faults, is_of_type, read_toml, unknown_name
from effsam_export.errors import UnknownNameError, UsageError
from effsam_export.spec.targets import Gates, Precision, TargetProfile

if TYPE_CHECKING:
    from collections.abc import Mapping

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
TARGET_KEYS = {
    "description": str,
    "backend": str,
    "precisions": list,
    "opset": int,
    "simplify": bool,
    "options": dict,
    "gates": dict,
}
MIN_OPSET, MAX_OPSET = 18, 23
"""What torch's exporter writes: 18 is what its operators are defined in, 23 the newest it knows."""
GATE_KEYS = {"mask_iou": float, "score_error": float, "cosine": float}
OPTIONAL_GATES = {"mean_iou": float}


def target_names() -> tuple[str, ...]:
    """Names of the profiles that ship with the package."""
    return tuple(sorted(p.stem for p in data_dir("targets").glob("*.toml")))


def load_target(
    name: str, precision: str | None = None, options: Mapping[str, str] | None = None
) -> TargetProfile:
    """Read a target profile and resolve one precision of it.

    Args:
        name: A profile's name, or the path of a TOML file.
        precision: One of the profile's precisions; its first when None.
        options: Values, as text, in the place of the profile's own or beside them.

    Raises:
        UnknownNameError: No such profile, or no such precision anywhere.
        UsageError: Every fault of the file or of the options in one message, or a precision the
            target lacks.
    """
    path = Path(name) if name.endswith(".toml") else data_dir("targets") / f"{name}.toml"
    if not path.is_file():
        if name.endswith(".toml"):
            raise UsageError(f"target file `{name}` does not exist")
        raise UnknownNameError("target", name, target_names())
    table = read_toml(path)
    problems = _target_faults(table)
    if problems:
        raise UsageError(f"target file `{path.name}`: {'; '.join(problems)}")

    offered: list[Precision] = table["precisions"]
    if precision is not None and precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    if precision is not None and precision not in offered:
        raise UsageError(
            f"target `{path.stem}` has no precision `{precision}`",
            hint=f"it has {', '.join(f'`{p}`' for p in offered)}",
        )
    chosen = next(p for p in offered if precision in (None, p))
    return TargetProfile(
        name=path.stem,
        description=table["description"],
        backend=table["backend"],
        precision=chosen,
        precisions=tuple(offered),
        opset=table["opset"],
        simplify=table["simplify"],
        options={**table["options"], **_parsed(table["backend"], options or {})},
        gates=Gates(**{k: float(v) for k, v in table["gates"][chosen].items()}),
        source=path.read_bytes(),
    )


def _parsed(backend: str, given: Mapping[str, str]) -> dict[str, str | int | float | bool]:
    """Options of a backend from text, each in the type its table says."""
    known = backends.BACKENDS[backend].options
    values: dict[str, str | int | float | bool] = {}
    problems = []
    for key, text in given.items():
        if key not in known:
            problems.append(unknown_name(f"option of backend `{backend}`", key, known))
            continue
        kind = known[key]
        try:
            if kind is bool:
                values[key] = {"true": True, "false": False}[text.lower()]
            else:
                values[key] = kind(text)
        except (ValueError, KeyError):
            wanted = "true or false" if kind is bool else f"of type {kind.__name__}"
            problems.append(f"option `{key}` is `{text}`, want it {wanted}")
    if problems:
        raise UsageError("; ".join(problems))
    return values


def _target_faults(table: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with a target file, as sentences."""
    problems = faults(table, TARGET_KEYS, "")
    right = {k: v for k, v in table.items() if k in TARGET_KEYS and is_of_type(v, TARGET_KEYS[k])}
    backend = right.get("backend")
    if backend is not None and backend not in backends.BACKENDS:
        problems.append(unknown_name("backend", backend, backends.BACKENDS))
    elif backend is not None:
        known = backends.BACKENDS[backend].options
        for key, value in right.get("options", {}).items():
            if key not in known:
                problems.append(unknown_name(f"option of backend `{backend}`", key, known))
            elif not is_of_type(value, known[key]):
                problems.append(f"`options.{key}` is not of type {known[key].__name__}")
    precisions = right.get("precisions", [])
    if "precisions" in right and not precisions:
        problems.append("`precisions` is empty")
    problems += [
        unknown_name("precision", str(p), PRECISIONS) for p in precisions if p not in PRECISIONS
    ]
    if backend in backends.BACKENDS:
        can = backends.BACKENDS[backend].precisions
        problems += [
            f"backend `{backend}` has no precision `{p}` (it has {', '.join(can)})"
            for p in precisions
            if p in PRECISIONS and p not in can
        ]
    if not MIN_OPSET <= right.get("opset", MIN_OPSET) <= MAX_OPSET:
        problems.append(f"`opset` is not from {MIN_OPSET} to {MAX_OPSET}")
    if "gates" not in right:
        return problems
    gates = right["gates"]
    problems += [unknown_name("key", k, PRECISIONS, "gates.") for k in gates if k not in PRECISIONS]
    for precision in (p for p in precisions if p in PRECISIONS):
        if precision not in gates:
            problems.append(f"`gates.{precision}` is missing")
        else:
            problems += _gate_faults(gates[precision], f"gates.{precision}.")
    return problems


def _gate_faults(gate: object, where: str) -> list[str]:
    """What is wrong with the gates of one precision."""
    values = gate if isinstance(gate, dict) else {}
    keys = {**GATE_KEYS, **{k: v for k, v in OPTIONAL_GATES.items() if k in values}}
    problems = faults(gate, keys, where)
    for key in keys:
        # Written so that NaN, which nothing would fail, is refused too.
        if key in values and is_of_type(values[key], float) and not 0 <= values[key] <= 1:
            problems.append(f"`{where}{key}` is not between 0 and 1")
    return problems
