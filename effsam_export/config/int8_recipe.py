"""INT8 recipes: `calibration/int8/<model>.toml`, or the default for models without one.

A file has a table for each component, and in it one for each backend, or `default`. `effsam bisect`
writes files of the same form.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from effsam_export import backends
from effsam_export.config.toml import data_dir, faults, read_toml
from effsam_export.errors import UsageError
from effsam_export.spec.int8 import (
    METHODS,
    ROUNDINGS,
    SCHEMES,
    TREATMENTS,
    Equalization,
    Exception8,
    Int8Recipe,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

COMPONENTS = ("encoder", "decoder", "segmenter")
RECIPE_KEYS = {
    "scheme": str,
    "method": str,
    "rounding": str,
    "equalize": list,
    "everything": bool,
    "exceptions": list,
}
EQUALIZE_KEYS = {"norm": str, "values": str, "layer": str, "strength": float}
EXCEPTION_KEYS = {"modules": list, "treatment": str, "reason": str, "source": str, "alone": bool}
OPTIONAL = ("source", "alone")


@dataclass(frozen=True, kw_only=True)
class Int8Plan:
    """The recipes of one file.

    Attributes:
        name: Of the file, without its suffix: a model, `default`, or a user's own.
        measured: What is known of the result, as a sentence; empty where nothing was measured.
    """

    name: str
    measured: str
    recipes: Mapping[tuple[str, str], Int8Recipe]

    def recipe(self, component: str, backend: str) -> Int8Recipe:
        """The recipe of a component for a backend; one that is not named stays in FP16."""
        for key in ((component, backend), (component, "default")):
            if key in self.recipes:
                return self.recipes[key]
        return Int8Recipe(scheme="fp16")


def load(model: str, path: Path | None = None) -> Int8Plan:
    """The best recipes known for a model, or those of a user's file.

    Raises:
        UsageError: Every fault of the file in one message.
    """
    if path is None:
        folder = data_dir("calibration") / "int8"
        path = folder / f"{model}.toml"
        path = path if path.is_file() else folder / "default.toml"
    elif not path.is_file():
        raise UsageError(f"INT8 recipe `{path}` does not exist")
    table = read_toml(path)
    problems: list[str] = []
    recipes: dict[tuple[str, str], Int8Recipe] = {}
    for component, rows in table.items():
        if component == "measured" and isinstance(rows, str):
            continue
        if component not in COMPONENTS or not isinstance(rows, dict):
            problems.append(f"`{component}` is not a table called {', '.join(COMPONENTS)}")
            continue
        for backend, row in rows.items():
            where = f"{component}.{backend}"
            if backend != "default" and backend not in backends.BACKENDS:
                problems.append(f"`{where}`: no backend is called `{backend}`")
                continue
            faults = _faults(row, where)
            problems += faults
            if not faults:
                recipes[component, backend] = _recipe(row)
    if not recipes and not problems:
        problems.append("it quantizes nothing")
    if problems:
        raise UsageError(f"INT8 recipe `{path.name}`: {'; '.join(problems)}")
    return Int8Plan(name=path.stem, measured=str(table.get("measured", "")), recipes=recipes)


def _faults(row: object, where: str) -> list[str]:
    given = row if isinstance(row, dict) else {}
    keys = {k: v for k, v in RECIPE_KEYS.items() if k == "scheme" or k in given}
    problems = faults(row, keys, f"{where}.")
    if problems:
        return problems
    choices = (("scheme", SCHEMES), ("method", METHODS), ("rounding", ROUNDINGS))
    for key, known in choices:
        if given.get(key, known[0]) not in known:
            problems.append(f"`{where}.{key}` is `{given[key]}`, want one of {', '.join(known)}")
    for entry in given.get("equalize", []):
        other = "norm" if isinstance(entry, dict) and "values" in entry else "values"
        wanted = {k: v for k, v in EQUALIZE_KEYS.items() if k != other}
        found = faults(entry, wanted, f"{where}.equalize.")
        if not found and not 0 <= entry["strength"] <= 1:
            found.append(f"`{where}.equalize.strength` is {entry['strength']}, want 0 to 1")
        problems += found
    for entry in given.get("exceptions", []):
        optional = {k: v for k, v in EXCEPTION_KEYS.items() if k in entry or k not in OPTIONAL}
        found = faults(entry, optional, f"{where}.exceptions.")
        if not found and entry["treatment"] not in TREATMENTS:
            found.append(
                f"`{where}.exceptions.treatment` is `{entry['treatment']}`, "
                f"want one of {', '.join(TREATMENTS)}"
            )
        if not found and not (
            entry["modules"] and all(isinstance(m, str) for m in entry["modules"])
        ):
            found.append(f"`{where}.exceptions.modules` wants names, at least one")
        problems += found
    return problems


def _recipe(row: Mapping[str, Any]) -> Int8Recipe:
    return Int8Recipe(
        scheme=row["scheme"],
        method=row.get("method", "minmax"),
        rounding=row.get("rounding", "nearest"),
        equalize=tuple(
            Equalization(
                norm=e.get("norm", ""),
                values=e.get("values", ""),
                layer=e["layer"],
                strength=float(e["strength"]),
            )
            for e in row.get("equalize", [])
        ),
        everything=row.get("everything", False),
        exceptions=tuple(
            Exception8(
                modules=tuple(entry["modules"]),
                treatment=entry["treatment"],
                reason=entry["reason"],
                source=entry.get("source", ""),
                alone=entry.get("alone", False),
            )
            for entry in row.get("exceptions", [])
        ),
    )


def in_words(recipe: Int8Recipe) -> str:
    """A recipe in a line, for a person who asked for `--int8`."""
    if not recipe.quantizes:
        return f"stays in {recipe.scheme.upper()}"
    what = "weights and activations" if recipe.scheme == "w8a8" else "weights only"
    parts = [f"INT8 {what}"]
    if recipe.scheme == "w8a8":
        parts.append(f"{recipe.method} ranges")
    if recipe.rounding == "descent":
        parts.append("weights rounded by coordinate descent")
    if recipe.equalize:
        parts.append(f"inputs of {', '.join(e.layer for e in recipe.equalize)} equalized")
    for treatment, words in (
        ("w8", "weights only"),
        ("float", "FP16"),
        ("w8a8", "activations too"),
    ):
        modules = [m for e in recipe.exceptions if e.treatment == treatment for m in e.modules]
        if modules:
            parts.append(f"{words} in {', '.join(modules)}")
    return "; ".join(parts)


def to_toml(measured: str, recipes: Mapping[str, Int8Recipe]) -> str:
    """Recipes by component as a file that `load` reads."""
    # A JSON string is a TOML string.
    lines = [f"measured = {json.dumps(measured)}"]
    for component, recipe in recipes.items():
        lines += ["", f"[{component}.default]", f'scheme = "{recipe.scheme}"']
        if recipe.quantizes:
            lines += [f'method = "{recipe.method}"', f'rounding = "{recipe.rounding}"']
            if recipe.equalize:
                lines += ["equalize = [", *map(_pair, recipe.equalize), "]"]
            lines += ["everything = true"] if recipe.everything else []
        if recipe.exceptions:
            lines.append("exceptions = [")
            lines += [f"  {_entry(e)}," for e in recipe.exceptions]
            lines.append("]")
    return "\n".join(lines) + "\n"


def _pair(entry: Equalization) -> str:
    kind, source = ("norm", entry.norm) if entry.norm else ("values", entry.values)
    source, layer = json.dumps(source), json.dumps(entry.layer)
    return f"  {{ {kind} = {source}, layer = {layer}, strength = {entry.strength} }},"


def _entry(entry: Exception8) -> str:
    fields = {
        "modules": json.dumps(list(entry.modules)),
        **({"alone": "true"} if entry.alone else {}),
        "treatment": json.dumps(entry.treatment),
        "reason": json.dumps(entry.reason),
        **({"source": json.dumps(entry.source)} if entry.source else {}),
    }
    return "{ " + ", ".join(f"{k} = {v}" for k, v in fields.items()) + " }"
