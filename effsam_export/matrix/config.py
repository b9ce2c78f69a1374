"""Read `effsam.toml`: models, targets and precisions of a build."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effsam_export import backends, models
from effsam_export.config import targets as profiles
from effsam_export.config.toml import faults, is_name, read_toml, refuse, unknown_name
from effsam_export.errors import EffsamError, UnknownNameError, shown
from effsam_export.matrix import input_sizes
from effsam_export.util.files import IS_A_DIRECTORY, fault_of_file

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
    "image_size": dict,
    "batch": dict,
    "options": dict,
    "leave_out": list,
    "requires": dict,
}
EVERY = "all"
MAX_NAMES = 1000
"""Maximum number of models, targets or entries of `leave_out`."""
LEAVE_OUT = ("model", "target", "precision")
WEIGHTS = ("file", "key", "base", "lora")
"""Keys of a table in `checkpoints` that are text; `lora_alpha` is a number."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One export of a build: a model for a target in a precision.

    Attributes:
        target: Name of a shipped target, or path of a target file.
        options: Target options as text, which replace those of the target.
        image_size: Size of the model's input as text; empty for that of the checkpoint.
        batch: Number of images in one call of the encoder as text; empty for one.
    """

    model: str
    target: str
    precision: str
    options: Mapping[str, str]
    image_size: str = ""
    batch: str = ""

    @property
    def profile(self) -> TargetProfile:
        """The target in the precision of the cell."""
        return profiles.load_target(self.target, self.precision, self.options)

    @property
    def name(self) -> str:
        """Name of the cell, and of its bundle's folder."""
        size = f"-{self.image_size}" if self.image_size else ""
        batch = f"-b{self.batch}" if self.batch else ""
        return f"{self.model}{size}{batch}-{Path(self.target).stem}-{self.precision}"


@dataclass(frozen=True, kw_only=True)
class OwnWeights:
    """A user's weight file, as the options of `effsam export`: `--checkpoint`, `--base`, ..."""

    file: Path
    key: str | None = None
    base: Path | None = None
    lora: Path | None = None
    lora_alpha: float | None = None


@dataclass(frozen=True, kw_only=True)
class Build:
    """The content of a build file.

    Attributes:
        cells: All exports.
        checkpoints: Model -> the user's weight file; other models use the official one.
        requires: Target -> label that cluster workers must have to build it.
        parity: File with the user's evaluation images and prompts; None for the shipped ones.
        calibration: Calibration of INT8: name of a recipe, or path of a recipe file or of a folder
            of images.
        output: Folder of the bundles.
    """

    cells: tuple[Cell, ...]
    checkpoints: Mapping[str, OwnWeights]
    requires: Mapping[str, str]
    parity: Path | None
    calibration: str
    output: Path


def load(path: Path) -> Build:
    """Read a build file; its paths are relative to the file.

    Raises:
        UsageError: The file does not exist, or is invalid; the message names every problem.
    """
    table = read_toml(path, "build file")
    problems = table_problems(table)
    if problems:
        refuse("build file", path, problems)
    folder = path.parent
    names = list(models.names()) if table["models"] == [EVERY] else table["models"]
    targets = [_target(folder, t) for t in table["targets"]]
    cells, problems = _cells(table, names, targets)
    checkpoints = {m: _own_weights(folder, row) for m, row in table.get("checkpoints", {}).items()}
    problems += [
        f"checkpoint of `{shown(m)}`, which is not built" for m in checkpoints if m not in names
    ]
    own = [p for w in checkpoints.values() for p in (w.file, w.base, w.lora) if p is not None]
    files = {p: fault_of_file(p) for p in own}
    problems += [
        f"checkpoint `{p}` {fault}"
        for p, fault in files.items()
        if fault and fault != IS_A_DIRECTORY
    ]
    problems += [
        f"{key} of `{shown(m)}`, which is not built"
        for key in input_sizes.TABLES
        for m in table.get(key, {})
        if m not in names
    ]
    known = {Path(t).stem for t in targets}
    for key in ("options", "requires"):
        problems += [
            f"{key} of `{shown(t)}`, which is not a target"
            for t in table.get(key, {})
            if t not in known
        ]
    if not cells and not problems:
        problems.append("nothing is left to build")
    if problems:
        refuse("build file", path, problems)
    parity, calibration = table.get("parity"), table.get("calibration", "default")
    images = folder / calibration
    return Build(
        cells=cells,
        checkpoints=checkpoints,
        requires=table.get("requires", {}),
        parity=None if parity is None else folder / parity,
        calibration=str(images) if os.path.lexists(images) else calibration,
        output=folder / table.get("output", "dist"),
    )


def _cells(
    table: Mapping[str, Any], names: Sequence[str], targets: Sequence[str]
) -> tuple[tuple[Cell, ...], list[str]]:
    """Return the cells of a build file, and what is wrong with its models and targets."""
    known = models.names()
    problems = [unknown_name("model", n, known) for n in dict.fromkeys(names) if n not in known]
    chosen: list[tuple[str, dict[str, str], tuple[str, ...]]] = []
    for target in targets:
        options = table.get("options", {}).get(Path(target).stem, {})
        texts = {str(k): _text(v) for k, v in options.items()}
        try:
            problems += _type_problems(target, options)
            chosen.append((target, texts, precisions(target, table.get("precisions"), texts)))
        except EffsamError as error:
            problems.append(_sentence(error))
    sizes, batches = (
        {n: input_sizes.of_model(table, key, n) for n in names if n in known}
        for key in input_sizes.TABLES
    )
    problems += [p for n in sizes for p in input_sizes.problems(n, sizes[n], batches[n])]
    cells: dict[str, Cell] = {}
    # With an unknown name the number of cells has no bound.
    for model in () if problems else names:
        for (target, texts, available), size, batch in product(
            chosen, sizes[model], batches[model]
        ):
            for precision in available:
                cell = Cell(
                    model=model,
                    target=target,
                    precision=precision,
                    options=texts,
                    image_size=size,
                    batch=batch,
                )
                if any(_is_left_out(cell, entry) for entry in table.get("leave_out", [])):
                    continue
                if batch and (problem := input_sizes.target_problem(batch, cell.profile)):
                    problems.append(f"`{cell.name}`: {problem}")
                if cell.name in cells:
                    problems.append(f"`{cell.name}` occurs twice")
                cells[cell.name] = cell
    return tuple(cells.values()), problems


def select_cells(build: Build, only: Sequence[str] | None) -> Build:
    """Return the build with only the named cells; with all of them if no name is given.

    Raises:
        UnknownNameError: A name is not one of its cells.
    """
    names = {c.name for c in build.cells}
    for name in only or ():
        if name not in names:
            raise UnknownNameError("cell", name, names)
    if not only:
        return build
    return replace(build, cells=tuple(c for c in build.cells if c.name in only))


def table_problems(table: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each key that is missing, unknown or of the wrong type."""
    given = {key: kind for key, kind in OPTIONAL.items() if key in table}
    problems = faults(table, {**KEYS, **given}, "")
    for key in ("models", "targets", "precisions"):
        values = table.get(key, ["x"])
        if isinstance(values, list) and not (values and all(is_name(v) for v in values)):
            problems.append(f"`{key}` needs at least one name")
        elif isinstance(values, list) and len(values) > MAX_NAMES:
            problems.append(f"`{key}` has over {MAX_NAMES} names")
    for key in ("output", "parity", "calibration"):
        if isinstance(table.get(key), str) and not is_name(table[key]):
            problems.append(f"`{key}` is not a path")
    rows = table.get("requires", {})
    if isinstance(rows, dict) and not all(is_name(v) for v in rows.values()):
        problems.append("`requires` needs a label for each name")
    rows = table.get("checkpoints", {})
    if isinstance(rows, dict) and not all(_is_weights(v) for v in rows.values()):
        problems.append(
            "`checkpoints` needs a path for each name, or a table of "
            f"{', '.join(WEIGHTS)} with `file`"
        )
    problems += input_sizes.table_problems(table)
    return problems + _option_problems(table.get("options", {})) + _leave_out_problems(table)


def _own_weights(folder: Path, row: str | Mapping[str, Any]) -> OwnWeights:
    """Return a model's weight file, with paths relative to the build file's folder."""
    if isinstance(row, str):
        return OwnWeights(file=folder / row)
    paths = {k: folder / row[k] for k in ("file", "base", "lora") if k in row}
    return OwnWeights(
        file=paths["file"],
        key=row.get("key"),
        base=paths.get("base"),
        lora=paths.get("lora"),
        lora_alpha=row.get("lora_alpha"),
    )


def _is_weights(row: object) -> bool:
    """Return whether an entry of `checkpoints` is a path, or a table of names with `file`."""
    if not isinstance(row, dict):
        return is_name(row)
    alpha = row.get("lora_alpha", 1.0)
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or not math.isfinite(alpha):
        return False
    texts = {k: v for k, v in row.items() if k != "lora_alpha"}
    return "file" in texts and not set(texts) - set(WEIGHTS) and all(map(is_name, texts.values()))


def _option_problems(options: object) -> list[str]:
    """Return a sentence for each target without a table of simple values."""
    if not isinstance(options, dict):
        return []
    if not all(isinstance(row, dict) for row in options.values()):
        return ["`options` needs a table for each name"]
    return [
        f"`options.{shown(target)}.{shown(key)}` is not a text, number or boolean"
        for target, row in options.items()
        for key, value in row.items()
        if not isinstance(value, (str, int, float))
    ]


def _leave_out_problems(table: Mapping[str, Any]) -> list[str]:
    """Return a sentence unless every entry of `leave_out` names a part of cells."""
    entries = table.get("leave_out", [])
    if not isinstance(entries, list):
        return []
    if len(entries) > MAX_NAMES:
        return [f"`leave_out` has over {MAX_NAMES} entries"]
    for entry in entries:
        if not isinstance(entry, dict) or not entry or set(entry) - set(LEAVE_OUT):
            return [f"`leave_out` needs tables with {', '.join(LEAVE_OUT)}"]
    return [
        f"`leave_out.{key}` is `{shown(value)}`, which is not a name"
        for entry in entries
        for key, value in entry.items()
        if not is_name(value)
    ]


def precisions(
    target: str, requested: list[str] | None, options: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the requested precisions that a target has; its default if none is requested.

    Raises:
        UsageError: The target, a precision or an option does not exist.
    """
    profile = profiles.load_target(target, None, options)
    if requested is None:
        return (profile.precision,)
    for name in requested:
        if name not in profiles.PRECISIONS:
            # Raises an error that names the nearest precision.
            profiles.load_target(target, name)
    return tuple(p for p in profiles.PRECISIONS if p in requested and p in profile.precisions)


def _target(folder: Path, target: str) -> str:
    return str(folder / target) if target.endswith(".toml") else target


def _type_problems(target: str, options: Mapping[str, object]) -> list[str]:
    """Return a sentence for each value that is of another type than its option; text is parsed."""
    known = backends.BACKENDS[profiles.load_target(target).backend].options
    return [
        f"`options.{Path(target).stem}.{key}` {fault}"
        for key, value in options.items()
        if key in known and not isinstance(value, str)
        if (fault := profiles.option_fault(key, value, known[key]))
    ]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_left_out(cell: Cell, entry: Mapping[str, str]) -> bool:
    mine = {"model": cell.model, "target": Path(cell.target).stem, "precision": cell.precision}
    return all(mine[key] == value for key, value in entry.items())


def _sentence(error: EffsamError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message
