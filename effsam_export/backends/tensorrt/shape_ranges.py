"""Shape ranges of dynamic dimensions, for the optimization profile of a TensorRT engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from effsam_export.errors import UsageError
from effsam_export.spec.batches import ANY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.spec.model import ComponentSpec

    Options = Mapping[str, str | int | float | bool]

DEFAULTS = {
    "max_images": 8,
    "opt_images": 1,
    "max_prompts": 64,
    "opt_prompts": 1,
    "max_points": 16,
    "opt_points": 2,
}
"""Target options that set the ranges. `points` counts clicks, box corners and padding.

`images` is the dimension of a dynamic batch (`spec.batches.ANY`). 64 prompts are one call of
automatic mask generation; 2 points are a click and its padding.
"""
LIMIT = 1024
"""Maximum size of a dynamic dimension in a traced graph (`trace.MAX_DYNAMIC`)."""
DIMENSIONS = (ANY, "prompts", "points")


@dataclass(frozen=True, kw_only=True)
class Range:
    """Minimum, optimal (tuned for) and maximum shape of one input."""

    minimum: tuple[int, ...]
    opt: tuple[int, ...]
    maximum: tuple[int, ...]

    @property
    def dynamic(self) -> bool:
        """Whether the shape may change from call to call."""
        return self.minimum != self.maximum


def sizes(options: Options) -> dict[str, tuple[int, int, int]]:
    """Return the minimum, optimal and maximum size of each dynamic dimension.

    Raises:
        UsageError: A size is not valid; the message lists all such sizes.
    """
    found = {name: _number(options, name) for name in DEFAULTS}
    problems = []
    for dimension in DIMENSIONS:
        opt, most = found[f"opt_{dimension}"], found[f"max_{dimension}"]
        if not 1 <= most <= LIMIT:
            problems.append(f"`max_{dimension}` is {most}, must be 1 to {LIMIT}")
        elif not 1 <= opt <= most:
            problems.append(f"`opt_{dimension}` is {opt}, must be 1 to `max_{dimension}`, {most}")
    if problems:
        raise UsageError("; ".join(problems), hint="change them in the target's options")
    return {d: (1, found[f"opt_{d}"], found[f"max_{d}"]) for d in DIMENSIONS}


def _number(options: Options, name: str) -> int:
    return int(options.get(name, DEFAULTS[name]))


def ranges(component: ComponentSpec, options: Options) -> dict[str, Range]:
    """Return the shape range of every input of a component, in order.

    Raises:
        UsageError: An option is not valid, or a dimension has no option.
    """
    known = sizes(options)
    unknown = sorted({d for t in component.inputs for d in t.shape if _unknown(d, known)})
    if unknown:
        names = ", ".join(f"`{d}`" for d in unknown)
        raise UsageError(f"{component.name}: no target option sets the range of dimension {names}")
    return {
        t.name: Range(
            minimum=tuple(_size(d, known, 0) for d in t.shape),
            opt=tuple(_size(d, known, 1) for d in t.shape),
            maximum=tuple(_size(d, known, 2) for d in t.shape),
        )
        for t in component.inputs
    }


def _unknown(dimension: int | str, known: Mapping[str, tuple[int, int, int]]) -> bool:
    return isinstance(dimension, str) and dimension not in known


def _size(dimension: int | str, known: Mapping[str, tuple[int, int, int]], index: int) -> int:
    return known[dimension][index] if isinstance(dimension, str) else dimension


def document(shapes: Mapping[str, Range]) -> dict[str, Any]:
    """Return the ranges as JSON: input -> `min`, `opt` and `max`."""
    return {
        name: {"min": list(r.minimum), "opt": list(r.opt), "max": list(r.maximum)}
        for name, r in shapes.items()
    }


def set_profile(profile: Any, shapes: Mapping[str, Range]) -> None:  # noqa: ANN401 - an SDK object
    """Set the ranges in an optimization profile of the builder."""
    for name, r in shapes.items():
        profile.set_shape(name, r.minimum, r.opt, r.maximum)
