"""What a manifest says of an INT8 export: what was quantized how, and what it was calibrated on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from effsam_export.config.int8_recipe import Int8Plan
from effsam_export.spec.int8 import Equalization, Exception8, Int8Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.calibration.samples import Calibration

WORDS = {"w8": "weight_only", "float": "keep_float", "descent": "coordinate-descent"}
"""Value of a recipe -> word of the manifest, where they differ."""


def document(recipes: dict[str, Int8Recipe], calibration: Calibration) -> dict[str, Any]:
    """The `int8` entry: recipes by component, and everything that makes the scales repeatable."""
    images = calibration.images
    found = images.recipe
    return {
        "components": {name: _recipe(recipe) for name, recipe in recipes.items()},
        "calibration": {
            "recipe": found.name,
            "num_samples": found.num_samples,
            "seed": found.seed,
            "smallest_crop": found.smallest,
            "flip": found.flip,
            "threads": calibration.threads,
            "images": [
                {"file": path.name, "sha256": digest}
                for path, digest in zip(found.images, images.sha256, strict=True)
            ],
        },
    }


def _recipe(recipe: Int8Recipe) -> dict[str, Any]:
    rounding = WORDS.get(recipe.rounding, recipe.rounding)
    return {
        "scheme": WORDS.get(recipe.scheme, recipe.scheme),
        "method": recipe.method,
        "quantize_activation_products": recipe.everything,
        **({"rounding": rounding} if rounding != "nearest" else {}),
        **({"equalize": [_equalize(e) for e in recipe.equalize]} if recipe.equalize else {}),
        "overrides": [
            {
                "modules": list(e.modules),
                "treatment": WORDS.get(e.treatment, e.treatment),
                "reason": e.reason,
                "source": e.source,
                **({"recursive": False} if e.alone else {}),
            }
            for e in recipe.exceptions
        ],
    }


def _equalize(entry: Equalization) -> dict[str, Any]:
    source = {"norm": entry.norm} if entry.norm else {"values": entry.values}
    return {**source, "layer": entry.layer, "alpha": entry.strength}


def plan(entry: Mapping[str, Any]) -> Int8Plan:
    """Return the recipes of an `int8` section, as they were when the bundle was made."""
    return Int8Plan(
        name="of a bundle",
        measured="",
        recipes={
            (component, "default"): _from_document(recipe)
            for component, recipe in entry["components"].items()
        },
    )


def _from_document(recipe: Mapping[str, Any]) -> Int8Recipe:
    internal: Any = {new: old for old, new in WORDS.items()}
    rounding = recipe.get("rounding", "nearest")
    return Int8Recipe(
        scheme=internal.get(recipe["scheme"], recipe["scheme"]),
        method=recipe["method"],
        everything=recipe["quantize_activation_products"],
        rounding=internal.get(rounding, rounding),
        equalize=tuple(
            Equalization(
                norm=e.get("norm", ""),
                values=e.get("values", ""),
                layer=e["layer"],
                strength=e["alpha"],
            )
            for e in recipe.get("equalize", ())
        ),
        exceptions=tuple(
            Exception8(
                modules=tuple(e["modules"]),
                treatment=internal.get(e["treatment"], e["treatment"]),
                reason=e["reason"],
                source=e["source"],
                alone=not e.get("recursive", True),
            )
            for e in recipe["overrides"]
        ),
    )
