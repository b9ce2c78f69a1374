"""A traced program run node by node on the CPU, for what has to look at every value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.export.graph_signature import InputKind
from torch.fx import Interpreter, Node

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Outputs = tuple[Tensor, ...]
Visit = Callable[[Node, tuple[Any, ...], dict[str, Any]], Any]
"""A call and the values of its arguments -> the result to go on with."""


def flat_inputs(program: ExportedProgram, feeds: Mapping[str, Any]) -> tuple[Any, ...]:
    """What the placeholders of a program's graph stand for, in their order.

    Args:
        program: With its weights and constants.
        feeds: The contract's inputs by name, in the program's order; arrays or tensors.
    """
    given = iter(torch.as_tensor(value) for value in feeds.values())
    values: list[Any] = []
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            values.append(next(given))
        else:
            assert spec.target is not None
            held: Mapping[str, Any] = program.state_dict
            values.append(
                held[spec.target] if spec.target in held else program.constants[spec.target]
            )
    return tuple(values)


class Watched(Interpreter):
    """Runs a program's graph, leaving every call to `visit`."""

    def __init__(self, program: ExportedProgram, visit: Visit) -> None:
        super().__init__(program.graph_module)
        self._visit = visit

    def run_node(self, n: Node) -> Any:  # noqa: ANN401  # as the base class
        """One node."""
        if n.op != "call_function":
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return self._visit(n, args, kwargs)


def run(program: ExportedProgram, feeds: Mapping[str, Any], visit: Visit) -> Outputs:
    """Run a program, leaving every call to `visit`; returns its outputs."""
    with torch.no_grad():
        outputs: Outputs = tuple(Watched(program, visit).run(*flat_inputs(program, feeds)))
    return outputs
