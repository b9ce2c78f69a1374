"""Manifests of version 3, read as version 4: the same facts under other names.

The bytes on disk never change: signatures, and the hashes that devices report, stay valid.
"""

from __future__ import annotations

from typing import Any

TOP = {
    "stand_in": "simulator",
    "varies": "nondeterministic_files",
    "attested": "attestations",
}
PRECISION = {
    "asked": "requested",
    "found": "elements_by_dtype",
    "ops": "ops_by_type",
    "kept_fp32": "keep_fp32",
}
RECIPE = {"everything": "quantize_activation_products", "exceptions": "overrides"}
TREATMENTS = {"w8": "weight_only", "float": "keep_float"}
ROUNDINGS = {"descent": "coordinate-descent"}


def upgraded(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest of version 3 as a document of version 4; the argument is not changed.

    Args:
        manifest: Valid against the schema of version 3.
    """
    document = {**_renamed(manifest, TOP), "manifest_version": 4}
    precision = _renamed(manifest["precision"], PRECISION)
    precision["keep_fp32"] = [_recursive(rule) for rule in precision["keep_fp32"]]
    document["precision"] = precision
    if "int8" in manifest:
        recipes = manifest["int8"]["components"].items()
        document["int8"] = {
            **manifest["int8"],
            "components": {name: _recipe(recipe) for name, recipe in recipes},
        }
    return document


def _recipe(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe of one quantized component."""
    document = _renamed(recipe, RECIPE)
    document["scheme"] = TREATMENTS.get(recipe["scheme"], recipe["scheme"])
    if "rounding" in recipe:
        document["rounding"] = ROUNDINGS.get(recipe["rounding"], recipe["rounding"])
    if "equalize" in recipe:
        document["equalize"] = [_renamed(e, {"strength": "alpha"}) for e in recipe["equalize"]]
    document["overrides"] = [
        {**_recursive(e), "treatment": TREATMENTS.get(e["treatment"], e["treatment"])}
        for e in recipe["exceptions"]
    ]
    return document


def _recursive(rule: dict[str, Any]) -> dict[str, Any]:
    """A rule with `recursive` in place of its opposite, `alone`."""
    document = {key: value for key, value in rule.items() if key != "alone"}
    return {**document, "recursive": False} if rule.get("alone") else document


def _renamed(document: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in document.items()}
