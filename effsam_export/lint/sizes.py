"""Rules on dynamic sizes, and on resizing and repeating."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from effsam_export.lint.findings import Hit
from effsam_export.lint.subject import op_of, shape_of, times

if TYPE_CHECKING:
    from collections.abc import Iterator

    from effsam_export.lint.subject import Subject

UNBACKED = re.compile(r"\bu\d+\b")
"""torch's names for sizes that depend on the values of a tensor."""
READS_VALUE = ("item", "local_scalar_dense")


def dynamic_inputs(subject: Subject) -> Iterator[Hit]:
    """Yield inputs with a dynamic dimension."""
    nodes = {n.name: n for n in subject.program.graph.nodes if n.op == "placeholder"}
    names = subject.program.graph_signature.user_inputs
    for spec, name in zip(subject.component.inputs, names, strict=True):
        if any(isinstance(size, str) for size in spec.shape):
            yield Hit(node=nodes[str(name)], detail=f"`{spec.name}` is {times(spec.shape)}")


def data_dependent(subject: Subject) -> Iterator[Hit]:
    """Yield nodes that make a size or a Python number from the values of a tensor."""
    seen = set[str]()
    for node in subject.calls:
        new = {m for size in shape_of(node) for m in UNBACKED.findall(str(size))} - seen
        if op_of(node) in READS_VALUE:
            new |= set(UNBACKED.findall(str(node.meta.get("val")))) - seen
            yield Hit(node=node, detail="reads a number out of a tensor")
        elif new:
            yield Hit(node=node, detail=f"gives {times(shape_of(node))}, known only when it runs")
        seen |= new


def dynamic_resize(subject: Subject) -> Iterator[Hit]:
    """Yield interpolations to a dynamic size."""
    for node in subject.calls:
        if op_of(node).startswith("upsample_") and not all(
            isinstance(size, int) for size in shape_of(node)[2:]
        ):
            yield Hit(node=node, detail=f"to {times(shape_of(node)[2:])}")


def bicubic_resize(subject: Subject) -> Iterator[Hit]:
    """Yield bicubic interpolations, except to a fixed size: backends write it as two products."""
    for node in subject.calls:
        size = shape_of(node)[2:]
        if op_of(node) == "upsample_bicubic2d_aa":
            yield Hit(node=node, detail=f"with antialiasing, to {times(size)}")
        elif op_of(node) == "upsample_bicubic2d" and not all(isinstance(s, int) for s in size):
            yield Hit(node=node, detail=f"to {times(size)}")


def repeat_interleave(subject: Subject) -> Iterator[Hit]:
    """Yield `torch.repeat_interleave`, except with one repeat, which converters drop."""
    for node in subject.calls:
        if op_of(node) != "repeat_interleave":
            continue
        repeats = node.args[1] if len(node.args) > 1 else None
        if repeats != 1:
            fixed = isinstance(repeats, int)
            times_over = f"{repeats} times" if fixed else "a number of times that is computed"
            yield Hit(
                node=node,
                detail=f"{times_over}, gives {times(shape_of(node))}",
                severity="warning" if fixed else "error",
            )


def dynamic_tile(subject: Subject) -> Iterator[Hit]:
    """Yield `repeat` and `tile` with a dynamic number of repeats."""
    for node in subject.calls:
        if op_of(node) not in ("repeat", "tile"):
            continue
        counts = node.args[1]
        assert isinstance(counts, (list, tuple))
        if not all(isinstance(count, int) for count in counts):
            yield Hit(node=node, detail=f"gives {times(shape_of(node))}")
