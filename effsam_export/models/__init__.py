"""Every model, by name. A new one is a file beside this one and a line in the table."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from effsam_export.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.spec import ModelSpec

MODELS: dict[str, tuple[str, str]] = {
    # name -> module, the ModelSpec in it
    "mobile-sam": ("effsam_export.models.mobile_sam", "MOBILE_SAM"),
}


def names() -> tuple[str, ...]:
    """Names of all models, in the order `effsam list` shows them."""
    return tuple(MODELS)


def get(name: str) -> ModelSpec:
    """The model called `name`.

    Raises:
        UnknownNameError: There is none; the nearest names are suggested.
    """
    if name not in MODELS:
        raise UnknownNameError("model", name, MODELS)
    module, attribute = MODELS[name]
    spec: ModelSpec = getattr(import_module(module), attribute)
    return spec


def configured(spec: ModelSpec, options: Mapping[str, float]) -> ModelSpec:
    """The model with other settings than its default ones.

    Raises:
        UsageError: It has no such settings, or refuses the values.
    """
    if not options or options == spec.options:
        return spec
    if spec.with_options is None:
        raise UsageError(f"`{spec.name}` has no settings", hint="leave --set out")
    return spec.with_options({**spec.options, **options})
