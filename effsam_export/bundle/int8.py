"""What a manifest says of an INT8 export: what was quantized how, and what it was calibrated on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effsam_export.calibration.photographs import Photographs
    from effsam_export.quantize.plan import Int8Recipe


def document(recipes: dict[str, Int8Recipe], photographs: Photographs) -> dict[str, Any]:
    """The `int8` entry: recipes by component, and everything that makes the scales repeatable."""
    found = photographs.recipe
    return {
        "components": {name: _recipe(recipe) for name, recipe in recipes.items()},
        "calibration": {
            "recipe": found.name,
            "num_samples": found.num_samples,
            "seed": found.seed,
            "smallest_crop": found.smallest,
            "flip": found.flip,
            "images": [
                {"file": path.name, "sha256": digest}
                for path, digest in zip(found.images, photographs.sha256, strict=True)
            ],
        },
    }


def _recipe(recipe: Int8Recipe) -> dict[str, Any]:
    return {
        "scheme": recipe.scheme,
        "method": recipe.method,
        "everything": recipe.everything,
        "exceptions": [
            {
                "modules": list(e.modules),
                "treatment": e.treatment,
                "reason": e.reason,
                "source": e.source,
            }
            for e in recipe.exceptions
        ],
    }
