"""INT8 recipes as TOML: `calibration/int8/<model>.toml`, or `default.toml` for other models.

A file has a table for each component, which has a table for each backend, or `default`.
`effsam bisect` writes files of the same form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from effsam_export import backends
from effsam_export.config.module_rules import (
    check_alone,
    check_renamed_keys,
    module_faults,
    rule_document,
)
from effsam_export.config.toml import (
    data_dir,
    faults,
    is_name,
    is_of_type,
    read_toml,
    refuse,
    value_fault,
)
from effsam_export.errors import shown
from effsam_export.spec.int8 import (
    METHODS,
    ROUNDINGS,
    SCHEMES,
    TREATMENTS,
    Equalization,
    Int8Recipe,
    LayerOverride,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

COMPONENTS = ("encoder", "decoder", "segmenter")
MEASURED_KEYS = {"measured": str, "checkpoint": str, "image_size": str}
RECIPE_KEYS = {
    "scheme": str,
    "method": str,
    "rounding": str,
    "equalize": list,
    "quantize_activation_products": bool,
    "overrides": list,
}
EQUALIZE_KEYS = {"norm": str, "values": str, "layer": str, "alpha": float}
OVERRIDE_KEYS = {
    "modules": list,
    "treatment": str,
    "reason": str,
    "source": str,
    "recursive": bool,
}
OPTIONAL = ("source", "recursive")
MAX_NAMES = 6
"""Modules that a description lists; of more it gives the number."""
NEW_KEYS = {"exceptions": "overrides", "everything": "quantize_activation_products"}
NEW_VALUES = {"w8": "weight_only", "float": "keep_float", "descent": "coordinate-descent"}


@dataclass(frozen=True, kw_only=True)
class Int8Plan:
    """The recipes of one file.

    Attributes:
        name: Of the file, without its suffix: a model, `default`, or a user's own.
        measured: The measured accuracy, as a sentence; empty where nothing was measured.
        checkpoint: SHA-256 of the weights that were measured; empty where it is not known.
        image_size: Size of the model's input that was measured, as text; empty where it is not
            known.
        search: How the recipes were found, as values for a manifest; None if not by a search.
    """

    name: str
    measured: str
    recipes: Mapping[tuple[str, str], Int8Recipe]
    checkpoint: str = ""
    image_size: str = ""
    search: Mapping[str, Any] | None = None

    def recipe(self, component: str, backend: str) -> Int8Recipe:
        """Return the recipe of a component for a backend: FP16 where the file has none."""
        for key in ((component, backend), (component, "default")):
            if key in self.recipes:
                return self.recipes[key]
        return Int8Recipe(scheme="fp16")


def load(model: str, path: Path | None = None) -> Int8Plan:
    """Read the recipes that ship for a model, or those of a user's file.

    Raises:
        UsageError: The file is missing, or every fault of it in one message.
    """
    if path is None:
        folder = data_dir("calibration") / "int8"
        path = folder / f"{model}.toml"
        path = path if path.is_file() else folder / "default.toml"
    table = read_toml(path, "INT8 recipe")
    problems: list[str] = []
    recipes: dict[tuple[str, str], Int8Recipe] = {}
    for component, rows in table.items():
        if component in MEASURED_KEYS:
            fault = value_fault(rows, MEASURED_KEYS[component])
            problems += [f"`{component}` {fault}"] if fault else []
            continue
        if component not in COMPONENTS or not isinstance(rows, dict):
            problems.append(f"`{shown(component)}` is not a table called {', '.join(COMPONENTS)}")
            continue
        if not rows:
            problems.append(f"`{component}` is empty")
        for backend, row in rows.items():
            where = f"{component}.{shown(backend)}"
            if backend != "default" and backend not in backends.BACKENDS:
                problems.append(f"`{where}`: no backend is called `{shown(backend)}`")
                continue
            row_problems = _recipe_faults(row, where)
            problems += row_problems
            if not row_problems:
                recipes[component, backend] = recipe_from(row)
    if not recipes and not problems:
        problems.append("it quantizes nothing")
    if problems:
        refuse("INT8 recipe", path, problems)
    texts = {key: str(table.get(key, "")) for key in MEASURED_KEYS}
    return Int8Plan(
        name=path.stem,
        measured=texts["measured"],
        recipes=recipes,
        checkpoint=texts["checkpoint"],
        image_size=texts["image_size"],
    )


def _recipe_faults(row: object, where: str) -> list[str]:
    if not isinstance(row, dict):
        return [f"`{where}` is not a table"]
    table, problems = check_renamed_keys(row, NEW_KEYS, f"{where}.")
    keys = {k: v for k, v in RECIPE_KEYS.items() if k == "scheme" or k in table}
    if key_problems := faults(table, keys, f"{where}."):
        return problems + key_problems
    choices = (("scheme", SCHEMES), ("method", METHODS), ("rounding", ROUNDINGS))
    for key, known in choices:
        problems += _value_faults(table.get(key, known[0]), known, f"{where}.{key}")
    for entry in table.get("equalize", []):
        problems += _equalize_faults(entry, f"{where}.equalize")
    for entry in table.get("overrides", []):
        problems += _override_faults(entry, f"{where}.overrides")
    return problems


def _value_faults(value: str, known: Sequence[str], where: str) -> list[str]:
    if value in known:
        return []
    if NEW_VALUES.get(value) in known:
        return [f'`{where} = "{value}"` is now `"{NEW_VALUES[value]}"`']
    return [f"`{where}` is `{shown(value)}`, want one of {', '.join(known)}"]


def _equalize_faults(entry: object, where: str) -> list[str]:
    if not isinstance(entry, dict):
        return [f"`{where}` is not a table"]
    table, problems = check_renamed_keys(entry, {"strength": "alpha"}, f"{where}.")
    other = "norm" if "values" in table else "values"
    problems += faults(table, {k: v for k, v in EQUALIZE_KEYS.items() if k != other}, f"{where}.")
    alpha = table.get("alpha")
    if isinstance(alpha, (int, float)) and is_of_type(alpha, float) and not 0 <= alpha <= 1:
        problems.append(f"`{where}.alpha` is {shown(alpha)}, want 0 to 1")
    for key in ("norm", "values", "layer"):
        if isinstance(table.get(key), str) and not is_name(table[key]):
            problems.append(f"`{where}.{key}` wants the path of a module")
    return problems


def _override_faults(entry: object, where: str) -> list[str]:
    if not isinstance(entry, dict):
        return [f"`{where}` is not a table"]
    table, problems = check_alone(entry, f"{where}.")
    keys = {k: v for k, v in OVERRIDE_KEYS.items() if k in table or k not in OPTIONAL}
    if key_problems := faults(table, keys, f"{where}."):
        return problems + key_problems
    problems += _value_faults(table["treatment"], TREATMENTS, f"{where}.treatment")
    return problems + module_faults(table, "modules", f"{where}.")


def recipe_from(row: Mapping[str, Any]) -> Int8Recipe:
    """Return the recipe of a table that holds valid values, from TOML or from a manifest."""
    return Int8Recipe(
        scheme=row["scheme"],
        method=row.get("method", "minmax"),
        rounding=row.get("rounding", "nearest"),
        equalize=tuple(
            Equalization(
                norm=entry.get("norm", ""),
                values=entry.get("values", ""),
                layer=entry["layer"],
                alpha=float(entry["alpha"]),
            )
            for entry in row.get("equalize", [])
        ),
        quantize_activation_products=row.get("quantize_activation_products", False),
        overrides=tuple(
            LayerOverride(
                modules=tuple(entry["modules"]),
                treatment=entry["treatment"],
                reason=entry["reason"],
                source=entry.get("source", ""),
                recursive=entry.get("recursive", True),
            )
            for entry in row.get("overrides", [])
        ),
    )


def describe(recipe: Int8Recipe) -> str:
    """Describe a recipe in one line, for `--int8`."""
    if not recipe.quantizes:
        return f"stays in {recipe.scheme.upper()}"
    scope = "weights and activations" if recipe.scheme == "w8a8" else "weights only"
    parts = [f"INT8 {scope}"]
    if recipe.scheme == "w8a8":
        parts.append(f"{recipe.method} ranges")
    if recipe.rounding == "coordinate-descent":
        parts.append("weights rounded by coordinate descent")
    if recipe.equalize:
        parts.append(f"inputs of {', '.join(e.layer for e in recipe.equalize)} equalized")
    for treatment, words in (
        ("weight_only", "weights only"),
        ("keep_float", "FP16"),
        ("w8a8", "activations too"),
    ):
        modules = [m for o in recipe.overrides if o.treatment == treatment for m in o.modules]
        if modules:
            many = len(modules) > MAX_NAMES
            names = f"{len(modules)} layers" if many else ", ".join(modules)
            parts.append(f"{words} in {names}")
    return "; ".join(parts)


def to_toml(
    measured: str, recipes: Mapping[str, Int8Recipe], *, checkpoint: str = "", image_size: str = ""
) -> str:
    """Return recipes by component as the text of a file that `load` reads.

    Args:
        measured: The measured accuracy, as a sentence.
        recipes: By component.
        checkpoint: SHA-256 of the measured weights.
        image_size: Size of the model's input, as text.
    """
    import tomli_w

    evidence = {"measured": measured, "checkpoint": checkpoint, "image_size": image_size}
    tables = {name: {"default": document(recipe)} for name, recipe in recipes.items()}
    return tomli_w.dumps({**{k: v for k, v in evidence.items() if v}, **tables})


def document(recipe: Int8Recipe) -> dict[str, Any]:
    """Return a recipe as values for TOML or JSON, which `recipe_from` reads."""
    table: dict[str, Any] = {"scheme": recipe.scheme}
    if recipe.quantizes:
        table |= {"method": recipe.method, "rounding": recipe.rounding}
        if recipe.equalize:
            table["equalize"] = [equalize_document(e) for e in recipe.equalize]
        if recipe.quantize_activation_products:
            table["quantize_activation_products"] = True
    if recipe.overrides:
        table["overrides"] = [
            {**rule_document(o), "treatment": o.treatment} for o in recipe.overrides
        ]
    return table


def equalize_document(entry: Equalization) -> dict[str, Any]:
    """Return an equalized group of layers as values for TOML or a manifest."""
    source = {"norm": entry.norm} if entry.norm else {"values": entry.values}
    return {**source, "layer": entry.layer, "alpha": entry.alpha}
