"""Manifests of Core ML bundles, and the Swift that is written for them, as text and as trees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from effsam_export import integrate
from effsam_export.bundle.contract import tensors
from effsam_export.integrate.contract import contract_of
from effsam_export.models import fixed
from effsam_export.models.batching import with_batch
from tests.integrate import swift_tree
from tests.integrate.tools import KINDS, OWN_FRAME, SQUASHED, changed, manifest_for

if TYPE_CHECKING:
    from tree_sitter import Node

    from effsam_export.spec.model import ModelSpec

# Core ML has fixed shapes alone.
FIXED: dict[str, ModelSpec] = {
    "slots": KINDS["slots"],
    "fixed-fill": KINDS["fixed-fill"],
    "own-frame": fixed.with_slots(OWN_FRAME, 6),
    "squash": fixed.with_slots(SQUASHED, 6),
    "batch": with_batch(KINDS["slots"], 3),
    "rectangle": fixed.with_slots(KINDS["rectangle"], 6),
    "picture": KINDS["slots"],
}
OPTIONS: dict[str, str | int | bool] = {
    "slots": 6,
    "deployment_target": "iOS17",
    "compute_units": "ALL",
}


def manifest_of_kind(kind: str = "slots") -> dict[str, Any]:
    manifest = manifest_for(FIXED[kind], "coreml")
    if kind != "picture":
        return changed(manifest, "target.options", OPTIONS)
    options: dict[str, str | int | bool] = {**OPTIONS, "image_input": True}
    image = tensors(FIXED[kind].component("encoder"), options)["inputs"]
    return changed(changed(manifest, "target.options", options), "components.0.inputs", image)


def files_for(manifest: dict[str, Any]) -> dict[str, str]:
    return integrate.load("swift").files(contract_of(manifest))


def trees(files: dict[str, str]) -> dict[str, Node]:
    return {name: swift_tree.parse(text) for name, text in files.items()}


def values(files: dict[str, str]) -> dict[str, Any]:
    """Every constant that the files state, as `file: name`."""
    return {
        f"{file}: {name}": swift_tree.literal(node)
        for file, text in files.items()
        if "static let" in text
        for name, node in swift_tree.constants(swift_tree.parse(text)).items()
    }
