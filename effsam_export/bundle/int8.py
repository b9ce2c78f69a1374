"""What a manifest says of an INT8 export: what was quantized how, and what it was calibrated on."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from effsam_export.config.int8_recipe import Int8Plan
from effsam_export.spec.int8 import Equalization, Exception8, Int8Recipe

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
    return {
        "scheme": recipe.scheme,
        "method": recipe.method,
        "everything": recipe.everything,
        **({"rounding": recipe.rounding} if recipe.rounding != "nearest" else {}),
        **({"equalize": [_pair(e) for e in recipe.equalize]} if recipe.equalize else {}),
        "exceptions": [
            {
                "modules": list(e.modules),
                "treatment": e.treatment,
                "reason": e.reason,
                "source": e.source,
                **({"alone": True} if e.alone else {}),
            }
            for e in recipe.exceptions
        ],
    }


def _pair(entry: Equalization) -> dict[str, Any]:
    return {k: v for k, v in asdict(entry).items() if v != ""}


def plan(entry: Mapping[str, Any]) -> Int8Plan:
    """The recipes of an `int8` entry, as they were when the bundle was made."""
    return Int8Plan(
        name="of a bundle",
        measured="",
        recipes={
            (component, "default"): Int8Recipe(
                scheme=found["scheme"],
                method=found["method"],
                everything=found["everything"],
                rounding=found.get("rounding", "nearest"),
                equalize=tuple(Equalization(**e) for e in found.get("equalize", ())),
                exceptions=tuple(
                    Exception8(**{**e, "modules": tuple(e["modules"])}) for e in found["exceptions"]
                ),
            )
            for component, found in entry["components"].items()
        },
    )
