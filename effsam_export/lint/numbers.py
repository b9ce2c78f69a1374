"""Rules on constants that FP16 cannot represent: too small or too large."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from effsam_export.lint.findings import Hit
from effsam_export.lint.subject import op_of
from effsam_export.precision.ranges import FP16_MAX, FP16_NORMAL, FP16_SMALLEST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.fx import Node

    from effsam_export.lint.findings import Severity
    from effsam_export.lint.subject import Subject

GUARDS = {
    # operator -> position of the constant that keeps its result away from zero
    "add": 1,
    "clamp": 1,
    "clamp_min": 1,
}
FUSED_EPS = {
    # operator -> position and default of its eps
    "layer_norm": (4, 1e-5),
    "group_norm": (4, 1e-5),
    "batch_norm": (7, 1e-5),
}
DIVIDES = ("reciprocal", "rsqrt", "log", "log2", "log10")
PRESERVES_VALUE = (
    "expand",
    "expand_as",
    "permute",
    "reshape",
    "select",
    "slice",
    "sqrt",
    "squeeze",
    "transpose",
    "unsqueeze",
    "view",
)
ROUNDS_TO_ZERO = FP16_SMALLEST / 2
"""Values up to half of the smallest FP16 number round to zero."""


def tiny_eps(subject: Subject) -> Iterator[Hit]:
    """Yield constants that keep a divisor, root or logarithm away from zero but not in FP16.

    If values were measured, a constant is no hit while the guarded value stays in FP16's normal
    numbers.
    """
    for node in subject.fp16_calls:
        op = op_of(node)
        if op in FUSED_EPS:
            position, default = FUSED_EPS[op]
            eps = node.args[position] if len(node.args) > position else default
            if isinstance(eps, float) and 0 < eps < ROUNDS_TO_ZERO:
                yield Hit(node=node, detail=f"its eps {eps:.1e} is 0 in FP16")
            continue
        eps = _guard(node, op)
        if eps is None or not divides(node):
            continue
        measured = subject.ranges.get(node.name)
        if measured is None:
            yield Hit(node=node, detail=_in_words(eps))
        elif measured.smallest < FP16_NORMAL:
            severity: Severity = "error" if measured.smallest < ROUNDS_TO_ZERO else "warning"
            detail = f"{_in_words(eps)}, and the guarded value was {measured.smallest:.1e}"
            yield Hit(node=node, detail=detail, severity=severity)


def _guard(node: Node, op: str) -> float | None:
    """Return the small constant of a node, or None."""
    if op not in GUARDS or len(node.args) <= GUARDS[op]:
        return None
    value = node.args[GUARDS[op]]
    return value if isinstance(value, float) and 0 < value < FP16_NORMAL else None


def _in_words(eps: float) -> str:
    if eps < ROUNDS_TO_ZERO:
        return f"eps {eps:.1e} is 0 in FP16"
    return f"eps {eps:.1e} is below FP16's normal numbers ({FP16_NORMAL:.1e})"


def divides(node: Node) -> bool:
    """Return whether a user of a node divides by its value or takes its logarithm."""
    for user in node.users:
        op = op_of(user)
        if op in DIVIDES or (op == "div" and len(user.args) > 1 and user.args[1] is node):
            return True
        if op == "pow" and isinstance(user.args[1], (int, float)) and user.args[1] < 0:
            return True
        if op in PRESERVES_VALUE and divides(user):
            return True
    return False


def huge_constants(subject: Subject) -> Iterator[Hit]:
    """Yield finite constants above 65504: weights, buffers, and numbers in the code."""
    constants = subject.constants
    for node in subject.fp16_calls:
        for name in (n.name for n in node.all_input_nodes if n.name in constants):
            value = constants[name]
            if value.is_floating_point() and value.numel():
                largest = float(value.detach().nan_to_num(0.0, 0.0, 0.0).abs().max())
                if largest > FP16_MAX:
                    yield Hit(node=node, detail=f"`{name}` holds {largest:.3g}")
        numbers = [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, (int, float))]
        for number in numbers:
            # An integer of 2**31 or more is a size or an end of a slice, not arithmetic.
            arithmetic = isinstance(number, float) or abs(number) < 2**31
            if arithmetic and math.isfinite(number) and abs(number) > FP16_MAX:
                yield Hit(node=node, detail=f"the number {number:.3g}")
