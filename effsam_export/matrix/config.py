"""`effsam.toml`: which models for which targets in which precisions. Nothing heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effsam_export import models
from effsam_export.config import targets as profiles
from effsam_export.config.toml import faults, read_toml
from effsam_export.errors import EffsamError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from effsam_export.spec.targets import TargetProfile

KEYS = {"models": list, "targets": list}
OPTIONAL = {
    "precisions": list,
    "output": str,
    "parity": str,
    "calibration": str,
    "checkpoints": dict,
    "options": dict,
    "leave_out": list,
    "requires": dict,
}
EVERY = "all"
LEAVE_OUT = ("model", "target", "precision")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One export of a build.

    Attributes:
        target: A profile's name, or the path of a TOML file.
        options: Of the target, as text, in the place of the profile's own.
    """

    model: str
    target: str
    precision: str
    options: Mapping[str, str]

    @property
    def profile(self) -> TargetProfile:
        """The target in this precision."""
        return profiles.load_target(self.target, self.precision, self.options)

    @property
    def name(self) -> str:
        """As its bundle's folder is called."""
        return f"{self.model}-{Path(self.target).stem}-{self.precision}"


@dataclass(frozen=True, kw_only=True)
class Build:
    """What a file asks for.

    Attributes:
        checkpoints: Model -> the user's own weight file; the official one where it is not named.
        requires: Target -> label of the cluster's workers that it has to be built on.
        parity: The user's photographs and prompts to judge by; None for those that ship.
        calibration: What INT8 is calibrated on: a recipe's name, a TOML file or a folder.
        output: Where bundles go.
    """

    cells: tuple[Cell, ...]
    checkpoints: Mapping[str, Path]
    requires: Mapping[str, str]
    parity: Path | None
    calibration: str
    output: Path


def load(path: Path) -> Build:
    """Read a build file; its paths are relative to it.

    Raises:
        UsageError: The file is missing, or everything that is wrong with it.
    """
    if not path.is_file():
        raise UsageError(f"build file `{path}` does not exist")
    table = read_toml(path)
    problems = shape_faults(table)
    if problems:
        raise UsageError(f"build file `{path.name}`: {'; '.join(problems)}")
    folder = path.parent
    names = list(models.names()) if table["models"] == [EVERY] else table["models"]
    targets = [_target(folder, t) for t in table["targets"]]
    left_out = table.get("leave_out", [])
    cells: dict[str, Cell] = {}
    for model in names:
        try:
            models.get(model)
        except EffsamError as error:
            problems.append(_sentence(error))
            continue
        for target in targets:
            options = table.get("options", {}).get(Path(target).stem, {})
            wanted = {str(k): _text(v) for k, v in options.items()}
            try:
                chosen = precisions(target, table.get("precisions"), wanted)
            except EffsamError as error:
                problems.append(_sentence(error))
                continue
            for precision in chosen:
                cell = Cell(model=model, target=target, precision=precision, options=wanted)
                if any(_is_left_out(cell, entry) for entry in left_out):
                    continue
                if cell.name in cells:
                    problems.append(f"`{cell.name}` is asked for twice")
                cells[cell.name] = cell
    checkpoints = {m: folder / p for m, p in table.get("checkpoints", {}).items()}
    problems += [f"checkpoint of `{m}`, which is not built" for m in checkpoints if m not in names]
    problems += [
        f"checkpoint `{p}` does not exist" for p in checkpoints.values() if not p.is_file()
    ]
    known = {Path(t).stem for t in targets}
    for key in ("options", "requires"):
        problems += [f"{key} of `{t}`, no target" for t in table.get(key, {}) if t not in known]
    if not cells and not problems:
        problems.append("nothing is left to build")
    if problems:
        unique = dict.fromkeys(problems)
        raise UsageError(f"build file `{path.name}`: {'; '.join(unique)}")
    parity, calibration = table.get("parity"), table.get("calibration", "default")
    own = folder / calibration
    return Build(
        cells=tuple(cells.values()),
        checkpoints=checkpoints,
        requires=table.get("requires", {}),
        parity=None if parity is None else folder / parity,
        calibration=str(own) if own.exists() else calibration,
        output=folder / table.get("output", "dist"),
    )


def chosen(build: Build, only: Sequence[str] | None) -> Build:
    """The build with some of its cells, by name; with all of them where none is named.

    Raises:
        UnknownNameError: It has no such cell.
    """
    names = {c.name for c in build.cells}
    for name in only or ():
        if name not in names:
            raise UnknownNameError("cell", name, names)
    if not only:
        return build
    return replace(build, cells=tuple(c for c in build.cells if c.name in only))


def shape_faults(table: Mapping[str, Any]) -> list[str]:
    """Keys that are missing, unknown or of the wrong kind."""
    given = {key: kind for key, kind in OPTIONAL.items() if key in table}
    problems = faults(table, {**KEYS, **given}, "")
    for key in ("models", "targets", "precisions"):
        values = table.get(key, ["x"])
        if isinstance(values, list) and (not values or not all(isinstance(v, str) for v in values)):
            problems.append(f"`{key}` wants names, at least one")
    kinds = {"checkpoints": ("path", str), "options": ("table", dict), "requires": ("label", str)}
    for key, (what, kind) in kinds.items():
        rows = table.get(key, {})
        if isinstance(rows, dict) and not all(isinstance(v, kind) for v in rows.values()):
            problems.append(f"`{key}` wants a {what} for each name")
    for entry in table.get("leave_out", []):
        if not isinstance(entry, dict) or not entry or set(entry) - set(LEAVE_OUT):
            problems.append(f"`leave_out` wants tables with {', '.join(LEAVE_OUT)}")
            break
    return problems


def precisions(target: str, asked: list[str] | None, options: Mapping[str, str]) -> tuple[str, ...]:
    """Those of a target among the ones asked for, or its default.

    Raises:
        UsageError: No such target or precision, or an option that it does not have.
    """
    profile = profiles.load_target(target, None, options)
    if asked is None:
        return (profile.precision,)
    for name in asked:
        if name not in profiles.PRECISIONS:
            # Raises, with the nearest name.
            profiles.load_target(target, name)
    return tuple(p for p in profiles.PRECISIONS if p in asked and p in profile.precisions)


def _target(folder: Path, target: str) -> str:
    return str(folder / target) if target.endswith(".toml") else target


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_left_out(cell: Cell, entry: Mapping[str, str]) -> bool:
    mine = {"model": cell.model, "target": Path(cell.target).stem, "precision": cell.precision}
    return all(mine[key] == value for key, value in entry.items())


def _sentence(error: EffsamError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message
