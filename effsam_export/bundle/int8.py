"""The `int8` section of a manifest: quantization recipes and the calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from effsam_export.config.int8_recipe import Int8Plan, equalize_document, recipe_from
from effsam_export.config.module_rules import rule_document

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.calibration.samples import Calibration
    from effsam_export.spec.int8 import Int8Recipe


def document(
    recipes: dict[str, Int8Recipe],
    calibration: Calibration,
    search: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the `int8` section: recipes by component, and all inputs of the calibration.

    Args:
        recipes: The recipe of each component.
        calibration: Images and samples.
        search: How a recipe was found; None if not by a search.
    """
    images = calibration.images
    recipe = images.recipe
    return {
        "components": {name: _recipe(r) for name, r in recipes.items()},
        **({} if search is None else {"search": dict(search)}),
        "calibration": {
            "recipe": recipe.name,
            "num_samples": recipe.num_samples,
            "seed": recipe.seed,
            "smallest_crop": recipe.smallest,
            "flip": recipe.flip,
            "threads": calibration.threads,
            "images": [
                {"file": path.name, "sha256": digest, **_range(values)}
                for path, digest, values in zip(
                    recipe.images, images.sha256, images.ranges, strict=True
                )
            ],
        },
    }


def _range(values: tuple[float, float]) -> dict[str, list[float]]:
    """Return the entry of an image's range; empty for that of 8-bit images."""
    return {} if values == (0, 255) else {"range": list(values)}


def _recipe(recipe: Int8Recipe) -> dict[str, Any]:
    rounding = {} if recipe.rounding == "nearest" else {"rounding": recipe.rounding}
    return {
        "scheme": recipe.scheme,
        "method": recipe.method,
        "quantize_activation_products": recipe.quantize_activation_products,
        **rounding,
        **(
            {"equalize": [equalize_document(e) for e in recipe.equalize]} if recipe.equalize else {}
        ),
        "overrides": [
            {**rule_document(o), "treatment": o.treatment, "source": o.source}
            for o in recipe.overrides
        ],
    }


def plan(entry: Mapping[str, Any]) -> Int8Plan:
    """Return the recipes of an `int8` section, as they were when the bundle was made."""
    return Int8Plan(
        name="of a bundle",
        measured="",
        recipes={
            (component, "default"): recipe_from(recipe)
            for component, recipe in entry["components"].items()
        },
    )
