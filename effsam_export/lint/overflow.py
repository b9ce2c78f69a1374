"""Rules on measured values that come close to or exceed FP16's largest number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.lint.findings import Hit
from effsam_export.precision.ranges import FP16_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from effsam_export.lint.subject import Subject

HEADROOM = 2.0
"""Values within this factor of the limit are reported, because other images have other values."""


def values(subject: Subject) -> Iterator[Hit]:
    """Yield nodes with a large output value."""
    for node in subject.fp16_calls:
        measured = subject.ranges.get(node.name)
        if measured is None:
            continue
        if not measured.finite:
            if any(
                i.name in subject.ranges and not subject.ranges[i.name].finite
                for i in node.all_input_nodes
            ):
                continue  # Reported at the node where it began.
            yield Hit(node=node, detail="is Inf or NaN in FP32 already")
        elif measured.largest > FP16_MAX / HEADROOM:
            overflows = measured.largest > FP16_MAX
            yield Hit(
                node=node,
                detail=f"reached {measured.largest:,.0f}",
                severity="error" if overflows else "warning",
            )


def squares(subject: Subject) -> Iterator[Hit]:
    """Yield norms with a large squared input."""
    for node in subject.fp16_calls:
        measured = subject.ranges.get(node.name)
        if measured is not None and measured.square > FP16_MAX / HEADROOM:
            yield Hit(node=node, detail=f"squares reached {measured.square:,.0f}")


def sums(subject: Subject) -> Iterator[Hit]:
    """Yield means and norms with a large sum before the division."""
    for node in subject.fp16_calls:
        measured = subject.ranges.get(node.name)
        if measured is not None and measured.total > FP16_MAX:
            yield Hit(node=node, detail=f"a sum reached {measured.total:,.0f}")
