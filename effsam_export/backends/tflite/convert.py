"""Convert a traced program to the bytes of a .tflite file with litert-torch."""

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


class NamedTensors(nn.Module):
    """A traced graph with named inputs and outputs, whose names litert-torch keeps."""

    def __init__(self, graph: fx.GraphModule, outputs: Sequence[str]) -> None:
        super().__init__()
        # Set directly, because a traced graph does not support `eval()`.
        self.training = False
        self.inner = graph
        self.outputs = tuple(outputs)

    def forward(self, **feeds: Tensor) -> dict[str, Tensor]:
        results = self.inner(*feeds.values())
        rows = results if isinstance(results, (tuple, list)) else (results,)
        return dict(zip(self.outputs, rows, strict=True))


def convert(program: Path, component: ComponentSpec) -> bytes:
    """Convert a traced program to a file with one signature, named like its component.

    Args:
        program: File of `torch.export.save`, FP32, with fixed shapes.
        component: Names and shapes of its tensors, in the program's order.

    Returns:
        The bytes of an FP32 file with the input and output names of the contract.
    """
    with warnings.catch_warnings():
        # Warnings about the code of torch, jax and litert-torch.
        warnings.simplefilter("ignore")
        import litert_torch

        graph = torch.export.load(program).module()
        tflite_rewrite.apply(graph)
        make_constants_contiguous(graph)
        feeds: Mapping[str, Tensor] = {
            s.name: torch.zeros([int(n) for n in s.shape]) for s in component.inputs
        }
        named = NamedTensors(graph, [s.name for s in component.outputs])
        converter = litert_torch.signature(component.name, named, sample_kwargs=feeds)
        with torch.no_grad():
            return bytes(converter.convert().model_content())


def make_constants_contiguous(graph: fx.GraphModule) -> None:
    """Make every constant of a graph contiguous in memory.

    litert-torch 0.10.0 identifies constants by address (`backend/inline_consts.py`). It copies a
    non-contiguous constant and frees the copy, so a later copy may have the same address and would
    get the values of the first.
    """
    for node in graph.graph.find_nodes(op="get_attr"):
        parent, _, name = str(node.target).rpartition(".")
        owner = graph.get_submodule(parent)
        value = getattr(owner, name)
        if isinstance(value, Tensor) and not value.is_contiguous():
            contiguous = value.detach().contiguous()
            setattr(
                owner,
                name,
                nn.Parameter(contiguous, False) if isinstance(value, nn.Parameter) else contiguous,
            )
