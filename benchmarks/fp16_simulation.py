"""A traced program in FP16 arithmetic, simulated on the CPU: what an accelerator would compute.

Every operator computes in FP32 from FP16 numbers and rounds what it gives, with Inf past 65504, as
hardware with FP32 accumulators does. Norms, softmax and GELU are taken apart and every step is
rounded, as a runtime does that has no fused kernel for them: the worse of the two ways. ONNX
Runtime's own FP16 on a CPU is no substitute: it computes FP16 operators in FP32 and fuses chains of
them without rounding between.

Not simulated: accumulators in FP16 (some GPUs of phones), flushing of subnormal numbers to zero
unless asked for, and the order of sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks import fp16_operators
from effsam_export.precision.interpret import run
from effsam_export.precision.select import op_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.export import ExportedProgram
    from torch.fx import Node

    from effsam_export.precision.interpret import Outputs

MOVES = frozenset(
    (
        *("alias", "chunk", "clone", "contiguous", "detach", "expand", "expand_as", "flatten"),
        *("flip", "getitem", "index", "index_select", "permute", "reshape", "select", "slice"),
        *("split", "split_with_sizes", "squeeze", "stack", "t", "transpose", "unbind"),
        *("unflatten", "unsqueeze", "view"),
    )
)
"""Operators that move numbers and compute none."""


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """How FP16 is simulated.

    Attributes:
        keep: Nodes that compute in FP32 and hand on FP32, between casts.
        flush: Take subnormal numbers (below 6.1e-5) for zero, as many accelerators do.
    """

    keep: frozenset[str] = frozenset()
    flush: bool = False


def simulate(program: ExportedProgram, feeds: Mapping[str, Any], arithmetic: Arithmetic) -> Outputs:
    """Run a program in simulated FP16; inputs and outputs are FP32, as in an export.

    Args:
        program: Traced in FP32, as it goes to a converter.
        feeds: The contract's inputs by name, in its order.
        arithmetic: How.
    """
    rounding = fp16_operators.Rounding(flush=arithmetic.flush)

    def visit(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        assert callable(node.target)
        op = op_name(str(node.target))
        if node.name in arithmetic.keep:
            return node.target(*args, **kwargs)
        if op in MOVES or "built-in" in str(node.target):
            # Constants and inputs come in FP32, so also what is only moved is rounded.
            return _rounded(node.target(*_rounded(args, rounding), **kwargs), rounding)
        args, kwargs = _rounded(args, rounding), _rounded(kwargs, rounding)
        taken_apart = fp16_operators.STEPS.get(op)
        if taken_apart is not None:
            return taken_apart(rounding, *args, **kwargs)
        return _rounded(node.target(*args, **kwargs), rounding)

    return run(program, feeds, visit)


def _rounded(value: Any, rounding: fp16_operators.Rounding) -> Any:  # noqa: ANN401
    """Return floats of any nesting rounded to FP16; integers and booleans do not change."""
    if isinstance(value, Tensor):
        return rounding(value) if value.is_floating_point() else value
    if isinstance(value, float):
        return float(rounding(torch.tensor(value)))
    if isinstance(value, (list, tuple)):
        return type(value)(_rounded(v, rounding) for v in value)
    if isinstance(value, dict):
        return {k: _rounded(v, rounding) for k, v in value.items()}
    return value
