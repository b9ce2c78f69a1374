"""The `int8` section of a manifest: quantization recipes and the calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from effsam_export.config.int8_recipe import Int8Plan
from effsam_export.spec.int8 import Equalization, Int8Recipe, LayerOverride

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.calibration.samples import Calibration


def document(recipes: dict[str, Int8Recipe], calibration: Calibration) -> dict[str, Any]:
    """Return the `int8` section: recipes by component, and all inputs of the calibration."""
    images = calibration.images
    recipe = images.recipe
    return {
        "components": {name: _recipe(r) for name, r in recipes.items()},
        "calibration": {
            "recipe": recipe.name,
            "num_samples": recipe.num_samples,
            "seed": recipe.seed,
            "smallest_crop": recipe.smallest,
            "flip": recipe.flip,
            "threads": calibration.threads,
            "images": [
                {"file": path.name, "sha256": digest}
                for path, digest in zip(recipe.images, images.sha256, strict=True)
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
