"""Rules on values measured on photographs: what comes near or past FP16's largest number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.lint.findings import Hit
from effsam_export.precision.ranges import FP16_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from effsam_export.lint.subject import Subject

HEADROOM = 2.0
"""Other photographs have other values; a value within this factor of the limit is told of."""


def values(subject: Subject) -> Iterator[Hit]:
    """Values that a node puts out."""
    for node in subject.fp16_calls:
        found = subject.ranges.get(node.name)
        if found is None:
            continue
        if not found.finite:
            if any(
                i.name in subject.ranges and not subject.ranges[i.name].finite
                for i in node.all_input_nodes
            ):
                continue  # Told of where it began.
            yield Hit(node=node, detail="is Inf or NaN in FP32 already")
        elif found.largest > FP16_MAX / HEADROOM:
            past = found.largest > FP16_MAX
            yield Hit(
                node=node,
                detail=f"reached {found.largest:,.0f}",
                severity="error" if past else "warning",
            )


def squares(subject: Subject) -> Iterator[Hit]:
    """Squares that a norm takes inside."""
    for node in subject.fp16_calls:
        found = subject.ranges.get(node.name)
        if found is not None and found.square > FP16_MAX / HEADROOM:
            yield Hit(node=node, detail=f"squares reached {found.square:,.0f}")


def sums(subject: Subject) -> Iterator[Hit]:
    """Sums that a mean or a norm forms before it divides."""
    for node in subject.fp16_calls:
        found = subject.ranges.get(node.name)
        if found is not None and found.total > FP16_MAX:
            yield Hit(node=node, detail=f"a sum reached {found.total:,.0f}")
