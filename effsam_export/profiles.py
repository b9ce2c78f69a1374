"""The data files: `targets/*.toml` and `calibration/*.toml`, validated as they are read.

Only this module knows where they lie: inside the package in a wheel, beside it in a checkout.
"""

from __future__ import annotations

import hashlib
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
GATE_KEYS = {"mask_iou": float, "score_error": float, "cosine": float}


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


def load_target(name: str, precision: str | None = None) -> TargetProfile:
    """Read a target profile and resolve one precision of it.

    Args:
        name: A profile's name, or the path of a TOML file.
        precision: One of the profile's precisions; its first when None.

    Raises:
        UnknownNameError: No such profile, or no such precision anywhere.
        UsageError: Every fault of the file in one message, or a precision the target lacks.
    """
    path = Path(name) if name.endswith(".toml") else data_dir("targets") / f"{name}.toml"
    if not path.is_file():
        if name.endswith(".toml"):
            raise UsageError(f"target file `{name}` does not exist")
        raise UnknownNameError("target", name, target_names())
    table = read_toml(path)
    problems = _faults(table, TARGET_KEYS, "")
    if not problems:
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
        options=table["options"],
        gates=Gates(**{k: float(v) for k, v in table["gates"][chosen].items()}),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def load_parity_images(path: Path | None = None) -> tuple[ParityImage, ...]:
    """The photographs and prompts parity is judged on: the shipped set, or a user's own file.

    Raises:
        UsageError: Every fault of the file in one message.
    """
    path = path or data_dir("calibration") / "parity.toml"
    if not path.is_file():
        raise UsageError(f"parity file `{path}` does not exist")
    table = read_toml(path)
    images, problems = [], []
    for row in table.get("images", []):
        where = f"`{row.get('file', '?')}`"
        if not isinstance(row.get("file"), str) or not isinstance(row.get("prompts"), list):
            problems.append(f"image {where} needs `file` and `prompts`")
            continue
        cases, seen = [], set[str]()
        for entry in row["prompts"]:
            fault = _case_fault(entry, seen)
            if fault:
                problems.append(f"image {where}: {fault}")
                continue
            seen.add(entry["name"])
            cases.append(_case(entry))
        images.append(ParityImage(path=path.parent / row["file"], cases=tuple(cases)))
    if not images:
        problems.append("there is no [[images]] table")
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


def _faults(table: Mapping[str, Any], keys: Mapping[str, type], where: str) -> list[str]:
    """Missing, unknown and wrongly typed keys of a table, as sentences."""
    problems = [f"`{where}{k}` is missing" for k in keys if k not in table]
    for key, value in table.items():
        if key not in keys:
            problems.append(str(UnknownNameError("key", f"{where}{key}", keys).message))
        elif keys[key] is float and isinstance(value, int) and not isinstance(value, bool):
            continue
        elif type(value) is not keys[key]:
            problems.append(f"`{where}{key}` is not of type {keys[key].__name__}")
    return problems


def _target_faults(table: Mapping[str, Any]) -> list[str]:
    """What is wrong with a target file whose keys and types are right."""
    problems = []
    if table["backend"] not in backends.BACKENDS:
        return [UnknownNameError("backend", table["backend"], backends.BACKENDS).message]
    if not table["precisions"]:
        problems.append("`precisions` is empty")
    known = backends.BACKENDS[table["backend"]].options
    for key, value in table["options"].items():
        if key not in known:
            problems.append(f"backend `{table['backend']}` has no option `{key}`")
        elif type(value) is not known[key]:
            problems.append(f"option `{key}` is not of type {known[key].__name__}")
    for precision in table["precisions"]:
        if precision not in PRECISIONS:
            problems.append(UnknownNameError("precision", precision, PRECISIONS).message)
        elif precision not in table["gates"]:
            problems.append(f"`gates.{precision}` is missing")
        else:
            problems += _faults(table["gates"][precision], GATE_KEYS, f"gates.{precision}.")
    return problems


def _case_fault(entry: Mapping[str, Any], seen: set[str]) -> str | None:
    """What is wrong with one prompt of a parity file, or None."""
    name = entry.get("name")
    if not isinstance(name, str) or name in seen:
        return f"prompt name `{name}` is missing or used twice"
    if set(entry) - {"name", "points", "box", "mask_from"}:
        return f"prompt `{name}` has a key that is not `name`, `points`, `box` or `mask_from`"
    if "mask_from" in entry and entry["mask_from"] not in seen:
        return f"prompt `{name}` feeds back `{entry['mask_from']}`, which is not above it"
    if any(len(p) != 3 for p in entry.get("points", [])) or len(entry.get("box", "four")) != 4:
        return f"prompt `{name}` wants points as [x, y, label] and a box as [x0, y0, x1, y1]"
    return None


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
