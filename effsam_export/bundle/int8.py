"""What a manifest says of an INT8 export: what was quantized how, and what it was calibrated on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from effsam_export.config.int8_recipe import Int8Plan
from effsam_export.spec.int8 import Equalization, Int8Recipe, LayerOverride

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.calibration.samples import Calibration


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
    rounding = {} if recipe.rounding == "nearest" else {"rounding": recipe.rounding}
    return {
        "scheme": recipe.scheme,
        "method": recipe.method,
        "quantize_activation_products": recipe.quantize_activation_products,
        **rounding,
        **({"equalize": [_equalize(e) for e in recipe.equalize]} if recipe.equalize else {}),
        "overrides": [
            {
                "modules": list(o.modules),
                "treatment": o.treatment,
                "reason": o.reason,
                "source": o.source,
                **({} if o.recursive else {"recursive": False}),
            }
            for o in recipe.overrides
        ],
    }


def _equalize(entry: Equalization) -> dict[str, Any]:
    source = {"norm": entry.norm} if entry.norm else {"values": entry.values}
    return {**source, "layer": entry.layer, "alpha": entry.alpha}


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
    return Int8Recipe(
        scheme=recipe["scheme"],
        method=recipe["method"],
        quantize_activation_products=recipe["quantize_activation_products"],
        rounding=recipe.get("rounding", "nearest"),
        equalize=tuple(
            Equalization(
                norm=e.get("norm", ""),
                values=e.get("values", ""),
                layer=e["layer"],
                alpha=e["alpha"],
            )
            for e in recipe.get("equalize", ())
        ),
        overrides=tuple(
            LayerOverride(
                modules=tuple(o["modules"]),
                treatment=o["treatment"],
                reason=o["reason"],
                source=o["source"],
                recursive=o.get("recursive", True),
            )
            for o in recipe["overrides"]
        ),
    )
