"""The data files: `targets/*.toml` and `calibration/*.toml`, validated as they are read.

Only this module knows where they lie: inside the package in a wheel, beside it in a checkout.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from effsam_export import backends
from effsam_export.errors import UnknownNameError, UsageError
from effsam_export.spec import Gates, Point, Precision, Prompt, TargetProfile

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
IMAGE_KEYS = {"file": str, "prompts": list}
GATE_KEYS = {"mask_iou": float, "score_error": float, "cosine": float}
OPTIONAL_GATES = {"mean_iou": float}


@dataclass(frozen=True, kw_only=True)
class ParityCase:
    """One prompt on one photograph, in original-image pixels.

    Attributes:
        mask_from: Name of an earlier case on the same photograph whose best mask is fed back.
    """

    name: str
    prompt: Prompt
    mask_from: str | None = None


@dataclass(frozen=True, kw_only=True)
class ParityImage:
    """A photograph and the prompts it is judged with."""

    path: Path
    cases: tuple[ParityCase, ...]


def data_dir(kind: str) -> Path:
    """The folder `targets` or `calibration`: inside the package in a wheel, else beside it."""
    here = Path(__file__).resolve().parent
    packaged = here / "_data" / kind
    return packaged if packaged.is_dir() else here.parent / kind


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
            problems.append(_unknown(f"option of backend `{backend}`", key, known))
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


def load_parity_images(path: Path | None = None) -> tuple[ParityImage, ...]:
    """The photographs and prompts parity is judged on: the shipped set, or a user's own file.

    Raises:
        UsageError: Every fault of the file in one message.
    """
    path = path or data_dir("calibration") / "parity.toml"
    if not path.is_file():
        raise UsageError(f"parity file `{path}` does not exist")
    table = read_toml(path)
    images, problems = [], faults(table, {"images": list}, "")
    rows = table.get("images")
    for row in rows if isinstance(rows, list) else ():
        wrong = faults(row, IMAGE_KEYS, "images.")
        if wrong:
            problems += wrong
            continue
        where = f"image `{row['file']}`"
        if not row["prompts"]:
            problems.append(f"{where} has no prompt")
        cases, seen = [], set[str]()
        for entry in row["prompts"]:
            fault = _case_fault(entry, seen)
            if fault:
                problems.append(f"{where}: {fault}")
                continue
            seen.add(entry["name"])
            cases.append(_case(entry))
        images.append(ParityImage(path=path.parent / row["file"], cases=tuple(cases)))
    if not images and not problems:
        problems.append("`images` is empty")
    if problems:
        raise UsageError(f"parity file `{path.name}`: {'; '.join(problems)}")
    return tuple(images)


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file, with its faults as a usage error."""
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"`{path}` is not valid TOML: {error}") from error
    return table


def faults(table: object, keys: Mapping[str, type], where: str) -> list[str]:
    """Missing, unknown and wrongly typed keys of a table, as sentences."""
    if not isinstance(table, dict):
        return [f"`{where.removesuffix('.')}` is not a table"]
    problems = [f"`{where}{k}` is missing" for k in keys if k not in table]
    for key, value in table.items():
        if key not in keys:
            problems.append(_unknown("key", key, keys, where))
        elif not _is(value, keys[key]):
            problems.append(f"`{where}{key}` is not of type {keys[key].__name__}")
    return problems


def _is(value: object, kind: type) -> bool:
    """Whether a TOML value is of a type; a whole number is a float too, a truth value is not."""
    return type(value) is kind or (kind is float and type(value) is int)


def _unknown(kind: str, name: str, known: Iterable[str], where: str = "") -> str:
    """A name that is in no table, with the nearest ones."""
    return f"unknown {kind} `{where}{name}` ({UnknownNameError(kind, name, known).hint})"


def _target_faults(table: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with a target file, as sentences."""
    problems = faults(table, TARGET_KEYS, "")
    right = {k: v for k, v in table.items() if k in TARGET_KEYS and _is(v, TARGET_KEYS[k])}
    backend = right.get("backend")
    if backend is not None and backend not in backends.BACKENDS:
        problems.append(_unknown("backend", backend, backends.BACKENDS))
    elif backend is not None:
        known = backends.BACKENDS[backend].options
        for key, value in right.get("options", {}).items():
            if key not in known:
                problems.append(_unknown(f"option of backend `{backend}`", key, known))
            elif not _is(value, known[key]):
                problems.append(f"`options.{key}` is not of type {known[key].__name__}")
    precisions = right.get("precisions", [])
    if "precisions" in right and not precisions:
        problems.append("`precisions` is empty")
    problems += [
        _unknown("precision", str(p), PRECISIONS) for p in precisions if p not in PRECISIONS
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
    problems += [_unknown("key", k, PRECISIONS, "gates.") for k in gates if k not in PRECISIONS]
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
        if key in values and _is(values[key], float) and not 0 <= values[key] <= 1:
            problems.append(f"`{where}{key}` is not between 0 and 1")
    return problems


def _case_fault(entry: object, seen: set[str]) -> str | None:
    """What is wrong with one prompt of a parity file, or None."""
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(name, str) or name in seen:
        return f"prompt name `{name}` is missing or used twice"
    if set(entry) - {"name", "points", "box", "mask_from"}:
        return f"prompt `{name}` has a key that is not `name`, `points`, `box` or `mask_from`"
    if "mask_from" in entry and entry["mask_from"] not in list(seen):
        return f"prompt `{name}` feeds back `{entry['mask_from']}`, which is not above it"
    points = entry.get("points", [])
    fine = isinstance(points, list) and all(_numbers(p, 3) and p[2] in (0, 1) for p in points)
    if not fine or ("box" in entry and not _numbers(entry["box"], 4)):
        return f"prompt `{name}` wants points as [x, y, label] and a box as [x0, y0, x1, y1]"
    if not points and "box" not in entry:
        return f"prompt `{name}` has no point and no box"
    return None


def _numbers(value: object, count: int) -> bool:
    """Whether a TOML value is a list of so many numbers."""
    return isinstance(value, list) and len(value) == count and all(_is(v, float) for v in value)


def _case(entry: Mapping[str, Any]) -> ParityCase:
    """One checked prompt of a parity file."""
    box = entry.get("box")
    return ParityCase(
        name=entry["name"],
        prompt=Prompt(
            points=tuple(Point(x=x, y=y, label=label) for x, y, label in entry.get("points", [])),
            box=None if box is None else (box[0], box[1], box[2], box[3]),
        ),
        mask_from=entry.get("mask_from"),
    )
