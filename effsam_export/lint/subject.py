"""The component that rules check, and functions that read the nodes of a traced program."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from effsam_export.precision.select import fx_scope, op_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from torch.export import ExportedProgram
    from torch.fx import Node

    from effsam_export.precision.ranges import Range
    from effsam_export.spec.model import ComponentSpec
    from effsam_export.spec.targets import TargetProfile


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One component and its target.

    Attributes:
        program: The traced program with composite operators, as Core ML's converter gets it.
        ranges: Measured values by node of `program`; empty if nothing was measured.
        fp32_nodes: Nodes of `program` that the model's FP16 recipe keeps in FP32.
    """

    component: ComponentSpec
    target: TargetProfile
    program: ExportedProgram
    ranges: Mapping[str, Range] = field(default_factory=dict)
    fp32_nodes: frozenset[str] = frozenset()

    @property
    def calls(self) -> tuple[Node, ...]:
        """The operators of the program, in order."""
        return calls(self.program)

    @property
    def fp16_calls(self) -> tuple[Node, ...]:
        """The operators that an FP16 export computes in FP16."""
        return tuple(n for n in self.calls if n.name not in self.fp32_nodes)

    @cached_property
    def core_calls(self) -> tuple[Node, ...]:
        """The program in torch's core operators, as TFLite's converter gets it."""
        return calls(decomposed(self.program))

    @cached_property
    def constants(self) -> Mapping[str, Tensor]:
        """Weights, buffers and constants, by the name of their placeholder."""
        constants: dict[str, Any] = {}
        for spec in self.program.graph_signature.input_specs:
            for tensors in (self.program.state_dict, self.program.constants):
                if spec.target is not None and spec.target in tensors:
                    constants[spec.arg.name] = tensors[spec.target]
        return constants


def decomposed(program: ExportedProgram) -> ExportedProgram:
    """Return the program in torch's core operators."""
    with warnings.catch_warnings():
        # `isinstance(treespec, LeafSpec)` inside torch 2.13.
        warnings.simplefilter("ignore", FutureWarning)
        core: ExportedProgram = program.run_decompositions()
    return core


def calls(program: ExportedProgram) -> tuple[Node, ...]:
    """Return the operators of a program, without size arithmetic and assertions."""
    return tuple(
        n
        for n in program.graph.nodes
        if n.op == "call_function"
        and isinstance(n.target, torch._ops.OpOverload)
        and "assert" not in str(n.target)
    )


def folded(node: Node, constants: Mapping[str, Tensor]) -> bool:
    """Return whether a converter can fold a node: all of its inputs are constants."""
    return all(
        source.name in constants if source.op == "placeholder" else folded(source, constants)
        for source in node.all_input_nodes
    )


def op_of(node: Node) -> str:
    """Return the name of a node's operator without namespace and overload."""
    return op_name(str(node.target))


def shape_of(node: Node) -> tuple[Any, ...]:
    """Return the shape of a node's (first) tensor with dynamic sizes as symbols, or ()."""
    value = node.meta.get("val")
    if isinstance(value, (list, tuple)) and value:
        value = value[0]
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def is_float(node: Node) -> bool:
    """Return whether the output of a node is a floating-point tensor."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def times(shape: tuple[Any, ...]) -> str:
    """Return a shape as text: `1x3x64x64`."""
    return "x".join(str(size) for size in shape) or "scalar"


def module_of(node: Node) -> str:
    """Return the path of the innermost module around a node."""
    paths = fx_scope(node).modules
    return paths[-1] if paths else ""


def source_of(node: Node) -> str:
    """Return the Python line that a node comes from: `models/sam/layers.py:27  x = centred / ...`.

    It is the innermost line outside torch and installed packages, or else the innermost line.
    """
    lines = (node.meta.get("stack_trace") or "").splitlines()
    places = []
    for i, line in enumerate(lines):
        if line.lstrip().startswith("File "):
            file, _, rest = line.strip().removeprefix('File "').partition('", line ')
            number = rest.split(",")[0]
            text = lines[i + 1].strip() if i + 1 < len(lines) else ""
            places.append((file, number, text))
    own = [p for p in places if "/site-packages/" not in p[0] and "/torch/" not in p[0]] or places
    if not own:
        return ""
    file, number, text = own[-1]
    _, inside, short = file.rpartition("/effsam_export/")
    name = short if inside else "/".join(file.split("/")[-2:])
    return f"{name}:{number}  {text}".rstrip()
