"""Measure the value ranges of a program's nodes on real inputs.

Intermediate values inside a node count too: a layer norm squares its input, and a mean divides a
larger sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from effsam_export.precision.interpret import Outputs, run
from effsam_export.precision.select import op_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.export import ExportedProgram
    from torch.fx import Node

FP16_MAX = 65504.0
FP16_NORMAL = 2.0**-14
"""6.1e-5: smaller FP16 numbers are subnormal, and many accelerators flush them to zero."""
FP16_SMALLEST = 2.0**-24
"""5.96e-8: the smallest positive FP16 number; half of it rounds to zero."""

SUMS = ("mean", "sum")
SQUARES = ("layer_norm", "group_norm", "instance_norm", "linalg_vector_norm")


@dataclass(frozen=True, kw_only=True)
class Range:
    """Range of absolute values of one node over all measured inputs.

    Attributes:
        largest, smallest: Of the output; zeros count.
        square: Largest square that a norm computes of its (centred) input, or 0.
        total: Largest sum before the division in a mean, or of squares in a norm, or 0. The sums
            of matrix products and convolutions are their outputs.
        finite: Whether all of the output is finite.
    """

    largest: float
    smallest: float
    square: float = 0.0
    total: float = 0.0
    finite: bool = True

    def merged(self, other: Range) -> Range:
        """Return the range over the inputs of both."""
        return Range(
            largest=max(self.largest, other.largest),
            smallest=min(self.smallest, other.smallest),
            square=max(self.square, other.square),
            total=max(self.total, other.total),
            finite=self.finite and other.finite,
        )


Ranges = dict[str, Range]
"""Name of a node in the program -> its range."""


def measure(program: ExportedProgram, feeds: Mapping[str, Any], ranges: Ranges) -> Outputs:
    """Run a program on inputs and widen `ranges` by its floating-point nodes.

    Args:
        program: The program, with its weights.
        feeds: Inputs by contract name, in the program's order.
        ranges: Updated in place.

    Returns:
        The outputs of the program.
    """

    def visit(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        assert callable(node.target)
        result = node.target(*args, **kwargs)
        if isinstance(result, Tensor) and result.is_floating_point() and result.numel():
            new = _range(op_name(str(node.target)), args, result)
            old = ranges.get(node.name)
            ranges[node.name] = new if old is None else old.merged(new)
        return result

    return run(program, feeds, visit)


def _range(op: str, args: tuple[Any, ...], result: Tensor) -> Range:
    size = result.abs()
    finite = bool(torch.isfinite(size).all())
    square, total = 0.0, 0.0
    if op in SQUARES:
        square, total = _squares(op, args)
    elif op in SUMS:
        source: Tensor = args[0]
        count = source.numel() / result.numel() if op == "mean" else 1.0
        total = float(size.max()) * count
    return Range(
        largest=float(size.max()) if finite else math.inf,
        smallest=float(size.min()),
        square=square,
        total=total,
        finite=finite,
    )


def _squares(op: str, args: tuple[Any, ...]) -> tuple[float, float]:
    """Return the largest square and the largest sum of squares inside a norm."""
    x: Tensor = args[0]
    if op == "linalg_vector_norm":
        axes = args[2] if len(args) > 2 and args[2] is not None else list(range(x.ndim))
    elif op == "layer_norm":
        axes = list(range(x.ndim - len(args[1]), x.ndim))
        x = x - x.mean(axes, keepdim=True)
    else:
        groups = args[1] if op == "group_norm" else x.shape[1]
        x = x.reshape(x.shape[0], groups, -1)
        axes = [2]
        x = x - x.mean(axes, keepdim=True)
    squares = x * x
    return float(squares.max()), float(squares.sum(axes).max())
