"""Functions as traced programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.export import ExportedProgram


class Function(nn.Module):
    """A function of one tensor as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def traced(of: nn.Module | Callable[[Tensor], Tensor], x: Tensor) -> ExportedProgram:
    """A program of a module or function of one tensor."""
    module = of if isinstance(of, nn.Module) else Function(of)
    with torch.no_grad():
        return torch.export.export(module.eval(), (x,))
