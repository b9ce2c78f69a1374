"""What a rule looks at, and how it reads the nodes of a traced program."""

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
    """One component on its way to one target.

    Attributes:
        program: As traced: composite operators are whole, as Core ML's converter sees them.
        ranges: By node of `program`; empty where nothing was measured.
        kept: Nodes of `program` that the model's precision recipe leaves in FP32.
    """

    component: ComponentSpec
    target: TargetProfile
    program: ExportedProgram
    ranges: Mapping[str, Range] = field(default_factory=dict)
    kept: frozenset[str] = frozenset()

    @property
    def calls(self) -> tuple[Node, ...]:
        """The operators of the program, in order."""
        return calls(self.program)

    @property
    def fp16_calls(self) -> tuple[Node, ...]:
        """Those that an FP16 export computes in FP16."""
        return tuple(n for n in self.calls if n.name not in self.kept)

    @cached_property
    def core_calls(self) -> tuple[Node, ...]:
        """The operators of torch's core set, as TFLite's converter sees them."""
        return calls(decomposed(self.program))

    @cached_property
    def constants(self) -> Mapping[str, Tensor]:
        """Weights, buffers and constants, by the name of their placeholder."""
        found: dict[str, Any] = {}
        for spec in self.program.graph_signature.input_specs:
            for held in (self.program.state_dict, self.program.constants):
                if spec.target is not None and spec.target in held:
                    found[spec.arg.name] = held[spec.target]
        return found


def decomposed(program: ExportedProgram) -> ExportedProgram:
    """The program in torch's core operators."""
    with warnings.catch_warnings():
        # `isinstance(treespec, LeafSpec)` inside torch 2.13.
        warnings.simplefilter("ignore", FutureWarning)
        core: ExportedProgram = program.run_decompositions()
    return core


def calls(program: ExportedProgram) -> tuple[Node, ...]:
    """The operators of a program, without its arithmetic on sizes and its assertions."""
    return tuple(
        n
        for n in program.graph.nodes
        if n.op == "call_function"
        and isinstance(n.target, torch._ops.OpOverload)
        and "assert" not in str(n.target)
    )


def folded(node: Node, constants: Mapping[str, Tensor]) -> bool:
    """Whether a converter can compute a node once and for all: only constants go into it."""
    return all(
        source.name in constants if source.op == "placeholder" else folded(source, constants)
        for source in node.all_input_nodes
    )


def op_of(node: Node) -> str:
    """The bare name of a node's operator."""
    return op_name(str(node.target))


def shape_of(node: Node) -> tuple[Any, ...]:
    """Shape of a node's (first) tensor, dynamic sizes as symbols; empty where it has none."""
    value = node.meta.get("val")
    if isinstance(value, (list, tuple)) and value:
        value = value[0]
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def is_float(node: Node) -> bool:
    """Whether a node gives a tensor of floats."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def times(shape: tuple[Any, ...]) -> str:
    """A shape in words: `1x3x64x64`."""
    return "x".join(str(size) for size in shape) or "scalar"


def module_of(node: Node) -> str:
    """Path of the innermost module a node was called in."""
    paths = fx_scope(node).modules
    return paths[-1] if paths else ""


def source_of(node: Node) -> str:
    """The Python line that made a node: `models/sam/layers.py:27  x = centred / ...`.

    The innermost line of this package's models; of whatever there is where none is.
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
