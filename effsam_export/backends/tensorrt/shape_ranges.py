"""Shape ranges of a graph's dynamic dimensions, as TensorRT's optimization profile takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from effsam_export.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.spec.model import ComponentSpec

    Options = Mapping[str, str | int | float | bool]

DEFAULTS = {"max_prompts": 64, "opt_prompts": 1, "max_points": 16, "opt_points": 2}
"""Options of a target that set the ranges; points are clicks, box corners and padding.

64 prompts are one call of automatic mask generation; one click with its padding is most common.
"""
LIMIT = 1024
"""Upper bound the graphs were traced with (`trace.MAX_DYNAMIC`)."""
DIMENSIONS = ("prompts", "points")


@dataclass(frozen=True, kw_only=True)
class Range:
    """Least, tuned-for and greatest shape of one input."""

    least: tuple[int, ...]
    opt: tuple[int, ...]
    greatest: tuple[int, ...]

    @property
    def dynamic(self) -> bool:
        """Whether the shape may change from call to call."""
        return self.least != self.greatest


def sizes(options: Options) -> dict[str, tuple[int, int, int]]:
    """Least, tuned-for and greatest size of each dynamic dimension.

    Raises:
        UsageError: Every size that is out of order, in one message.
    """
    found = {name: _number(options, name) for name in DEFAULTS}
    problems = []
    for dimension in DIMENSIONS:
        opt, most = found[f"opt_{dimension}"], found[f"max_{dimension}"]
        if not 1 <= most <= LIMIT:
            problems.append(f"`max_{dimension}` is {most}, want 1 to {LIMIT}")
        elif not 1 <= opt <= most:
            problems.append(f"`opt_{dimension}` is {opt}, want 1 to `max_{dimension}`, {most}")
    if problems:
        raise UsageError(
            "; ".join(problems), hint="they stand in the [options] of the target's file"
        )
    return {d: (1, found[f"opt_{d}"], found[f"max_{d}"]) for d in DIMENSIONS}


def _number(options: Options, name: str) -> int:
    return int(options.get(name, DEFAULTS[name]))


def ranges(component: ComponentSpec, options: Options) -> dict[str, Range]:
    """The range of every input of a component, in its order.

    Raises:
        UsageError: The options are out of order, or a dimension has no size among them.
    """
    known = sizes(options)
    strange = sorted({d for t in component.inputs for d in t.shape if _unknown(d, known)})
    if strange:
        names = ", ".join(f"`{d}`" for d in strange)
        raise UsageError(f"{component.name}: there is no range for the dimension {names}")
    return {
        t.name: Range(
            least=tuple(_size(d, known, 0) for d in t.shape),
            opt=tuple(_size(d, known, 1) for d in t.shape),
            greatest=tuple(_size(d, known, 2) for d in t.shape),
        )
        for t in component.inputs
    }


def _unknown(dimension: int | str, known: Mapping[str, tuple[int, int, int]]) -> bool:
    return isinstance(dimension, str) and dimension not in known


def _size(dimension: int | str, known: Mapping[str, tuple[int, int, int]], place: int) -> int:
    return known[dimension][place] if isinstance(dimension, str) else dimension


def document(shapes: Mapping[str, Range]) -> dict[str, Any]:
    """The ranges as JSON: input -> `min`, `opt` and `max`."""
    return {
        name: {"min": list(r.least), "opt": list(r.opt), "max": list(r.greatest)}
        for name, r in shapes.items()
    }


def set_profile(profile: Any, shapes: Mapping[str, Range]) -> None:  # noqa: ANN401 - an SDK object
    """Write the ranges into an optimization profile of the builder."""
    for name, r in shapes.items():
        profile.set_shape(name, r.least, r.opt, r.greatest)
