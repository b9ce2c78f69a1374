"""Run a traced program node by node on the CPU, with a callback for each node."""

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
"""Node, argument values and keyword argument values -> the node's result."""


def flat_inputs(program: ExportedProgram, feeds: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the values of the placeholders of a program's graph, in their order.

    Args:
        program: The program, with its weights and constants.
        feeds: Inputs by contract name, in the program's order; arrays or tensors.
    """
    given = iter(torch.as_tensor(value) for value in feeds.values())
    values: list[Any] = []
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            values.append(next(given))
        else:
            assert spec.target is not None
            state: Mapping[str, Any] = program.state_dict
            values.append(
                state[spec.target] if spec.target in state else program.constants[spec.target]
            )
    return tuple(values)


class VisitingInterpreter(Interpreter):
    """Runs a program's graph; `visit` computes every function call."""

    def __init__(self, program: ExportedProgram, visit: Visit) -> None:
        super().__init__(program.graph_module)
        self._visit = visit

    def run_node(self, n: Node) -> Any:  # noqa: ANN401  # as the base class
        """Run one node."""
        if n.op != "call_function":
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return self._visit(n, args, kwargs)


def run(program: ExportedProgram, feeds: Mapping[str, Any], visit: Visit) -> Outputs:
    """Run a program whose function calls are computed by `visit`; returns its outputs."""
    with torch.no_grad():
        outputs: Outputs = tuple(
            VisitingInterpreter(program, visit).run(*flat_inputs(program, feeds))
        )
    return outputs
