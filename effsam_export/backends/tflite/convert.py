"""A traced program to the bytes of a .tflite file, by litert-torch."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from effsam_export.backends.tflite import rewrite as tflite_rewrite

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import fx

    from effsam_export.spec.model import ComponentSpec


class Named(nn.Module):
    """A traced graph that takes and gives its tensors by name, which litert-torch keeps."""

    def __init__(self, graph: fx.GraphModule, outputs: Sequence[str]) -> None:
        super().__init__()
        # A traced graph refuses `eval()`: it has no training mode to leave.
        self.training = False
        self.inner = graph
        self.outputs = tuple(outputs)

    def forward(self, **feeds: Tensor) -> dict[str, Tensor]:
        results = self.inner(*feeds.values())
        rows = results if isinstance(results, (tuple, list)) else (results,)
        return dict(zip(self.outputs, rows, strict=True))


def convert(program: Path, component: ComponentSpec) -> bytes:
    """Convert a traced program, with one signature that is called as its component.

    Args:
        program: A file that `torch.export.save` wrote, FP32, with fixed shapes.
        component: Names and shapes of its tensors, in the program's order.

    Returns:
        The file, FP32, with the contract's names of inputs and outputs.
    """
    with warnings.catch_warnings():
        # Raised inside torch's, jax's and litert-torch's own code; nothing a caller could change.
        warnings.simplefilter("ignore")
        import litert_torch

        graph = torch.export.load(program).module()
        tflite_rewrite.apply(graph)
        lay_out(graph)
        feeds: Mapping[str, Tensor] = {
            s.name: torch.zeros([int(n) for n in s.shape]) for s in component.inputs
        }
        named = Named(graph, [s.name for s in component.outputs])
        converter = litert_torch.signature(component.name, named, sample_kwargs=feeds)
        with torch.no_grad():
            return bytes(converter.convert().model_content())


def lay_out(graph: fx.GraphModule) -> None:
    """Lay every constant out in the order of its axes.

    litert-torch 0.10.0 knows constants apart by address (`backend/inline_consts.py`), and takes
    that of a copy where one is laid out otherwise. The copy is gone before the next is made, which
    may lie at the same place: it gets the first one's values.
    """
    for node in graph.graph.find_nodes(op="get_attr"):
        parent, _, name = str(node.target).rpartition(".")
        owner = graph.get_submodule(parent)
        value = getattr(owner, name)
        if isinstance(value, Tensor) and not value.is_contiguous():
            laid = value.detach().contiguous()
            setattr(
                owner, name, nn.Parameter(laid, False) if isinstance(value, nn.Parameter) else laid
            )
