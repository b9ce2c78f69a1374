"""How large and how small the values of a program get, measured on real inputs.

Beside what a node puts out, what it computes inside counts: a layer norm squares its input, and a
sum grows before a mean divides it.
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
"""6.1e-5: below it FP16 has fewer than 11 bits, and many accelerators have zero."""
FP16_LEAST = 2.0**-24
"""5.96e-8: the smallest number there is in FP16; half of it rounds to zero."""

SUMS = ("mean", "sum")
SQUARES = ("layer_norm", "group_norm", "instance_norm", "linalg_vector_norm")


@dataclass(frozen=True, kw_only=True)
class Range:
    """Absolute values of one node, over all inputs that were measured.

    Attributes:
        largest: Of the output.
        least: Of the output, zeros included.
        square: Of the squares that a norm takes of its (centred) input; 0 where there is none.
        total: Of the sums that a reduction forms before it divides, or a norm of its squares;
            0 where there is none. A product of matrices or a convolution has its sums as output.
        finite: Whether all of the output was.
    """

    largest: float
    least: float
    square: float = 0.0
    total: float = 0.0
    finite: bool = True

    def merged(self, other: Range) -> Range:
        """The range over the inputs of both."""
        return Range(
            largest=max(self.largest, other.largest),
            least=min(self.least, other.least),
            square=max(self.square, other.square),
            total=max(self.total, other.total),
            finite=self.finite and other.finite,
        )


Ranges = dict[str, Range]
"""By name of the node in the program."""


def measure(program: ExportedProgram, feeds: Mapping[str, Any], ranges: Ranges) -> Outputs:
    """Run a program on inputs (by name, in its order) and widen `ranges` by every float node."""

    def visit(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        assert callable(node.target)
        result = node.target(*args, **kwargs)
        if isinstance(result, Tensor) and result.is_floating_point() and result.numel():
            found = _range(op_name(str(node.target)), args, result)
            old = ranges.get(node.name)
            ranges[node.name] = found if old is None else old.merged(found)
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
        least=float(size.min()),
        square=square,
        total=total,
        finite=finite,
    )


def _squares(op: str, args: tuple[Any, ...]) -> tuple[float, float]:
    """The largest square and the largest sum of squares inside a norm."""
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
