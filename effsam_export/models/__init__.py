"""The table of models. A new model is a file in this package and a line in the table."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from effsam_export.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.spec.model import ModelSpec

PACKAGE = "effsam_export.models"

MODELS: dict[str, tuple[str, str]] = {
    # name -> module, the ModelSpec in it
    "sam-vit-b": (f"{PACKAGE}.sam_vit", "SAM_VIT_B"),
    "sam-vit-l": (f"{PACKAGE}.sam_vit", "SAM_VIT_L"),
    "sam-vit-h": (f"{PACKAGE}.sam_vit", "SAM_VIT_H"),
    "mobile-sam": (f"{PACKAGE}.mobile_sam", "MOBILE_SAM"),
    "edge-sam": (f"{PACKAGE}.edge_sam", "EDGE_SAM"),
    "edge-sam-3x": (f"{PACKAGE}.edge_sam", "EDGE_SAM_3X"),
    "efficient-sam-ti": (f"{PACKAGE}.efficient_sam.spec", "EFFICIENT_SAM_TI"),
    "efficient-sam-s": (f"{PACKAGE}.efficient_sam.spec", "EFFICIENT_SAM_S"),
    "efficientvit-sam-l0": (f"{PACKAGE}.efficientvit_sam", "EFFICIENTVIT_SAM_L0"),
    "efficientvit-sam-l1": (f"{PACKAGE}.efficientvit_sam", "EFFICIENTVIT_SAM_L1"),
    "efficientvit-sam-l2": (f"{PACKAGE}.efficientvit_sam", "EFFICIENTVIT_SAM_L2"),
    "efficientvit-sam-xl0": (f"{PACKAGE}.efficientvit_sam", "EFFICIENTVIT_SAM_XL0"),
    "efficientvit-sam-xl1": (f"{PACKAGE}.efficientvit_sam", "EFFICIENTVIT_SAM_XL1"),
    "repvit-sam": (f"{PACKAGE}.repvit_sam", "REPVIT_SAM"),
    "slim-sam-50": (f"{PACKAGE}.slim_sam", "SLIM_SAM_50"),
    "slim-sam-77": (f"{PACKAGE}.slim_sam", "SLIM_SAM_77"),
    "fast-sam-s": (f"{PACKAGE}.fast_sam", "FAST_SAM_S"),
    "fast-sam-x": (f"{PACKAGE}.fast_sam", "FAST_SAM_X"),
    "expedit-sam-vit-b": (f"{PACKAGE}.expedit_sam", "EXPEDIT_SAM_VIT_B"),
    "expedit-sam-vit-l": (f"{PACKAGE}.expedit_sam", "EXPEDIT_SAM_VIT_L"),
    "expedit-sam-vit-h": (f"{PACKAGE}.expedit_sam", "EXPEDIT_SAM_VIT_H"),
    "sam-lightening": (f"{PACKAGE}.sam_lightening", "SAM_LIGHTENING"),
}


def names() -> tuple[str, ...]:
    """Return the names of all models, in the order of `effsam list`."""
    return tuple(MODELS)


def get(name: str) -> ModelSpec:
    """Return the model called `name`.

    Raises:
        UnknownNameError: No model has this name; the hint lists the nearest names.
    """
    if name not in MODELS:
        raise UnknownNameError("model", name, MODELS)
    module, attribute = MODELS[name]
    spec: ModelSpec = getattr(import_module(module), attribute)
    return spec


def configured(spec: ModelSpec, options: Mapping[str, float]) -> ModelSpec:
    """Return the model with other model options (`--set`) than its defaults.

    Raises:
        UsageError: The model has no such options, or a value is out of range.
    """
    if not options or options == spec.options:
        return spec
    if spec.with_options is None:
        raise UsageError(f"`{spec.name}` has no model options", hint="leave out --set")
    return spec.with_options({**spec.options, **options})
