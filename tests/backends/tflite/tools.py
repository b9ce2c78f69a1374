"""Small .tflite files for the tests, written by hand or converted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema
from torch import Tensor, nn

from effsam_export.config import targets as profiles
from effsam_export.spec.model import ComponentSpec
from effsam_export.spec.stages import Graph
from effsam_export.spec.tensors import TensorSpec
from tests.graph.passes.tools import Array, numbers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from effsam_export.spec.model import ComponentName
    from effsam_export.spec.targets import Precision, TargetProfile
    from effsam_export.spec.tensors import Feeds

FLOAT32, INT32, BOOL = (getattr(schema.TensorType, n) for n in ("FLOAT32", "INT32", "BOOL"))
PROMPTS, WIDTH = 2, 48
WEIGHT = numbers(WIDTH, WIDTH) / 7


def unused(*_: object) -> object:
    raise AssertionError("a backend needs only names and shapes")


def component(
    inputs: dict[str, tuple[int | str, ...]],
    outputs: dict[str, tuple[int | str, ...]],
    name: ComponentName = "decoder",
) -> ComponentSpec:
    """A contract, without the functions that a backend never calls."""
    return ComponentSpec(
        name=name,
        inputs=tuple(TensorSpec(name=n, shape=s) for n, s in inputs.items()),
        outputs=tuple(TensorSpec(name=n, shape=s) for n, s in outputs.items()),
        wrap=unused,  # type: ignore[arg-type]
        example=unused,  # type: ignore[arg-type]
        feeds=unused,  # type: ignore[arg-type]
        reference=unused,  # type: ignore[arg-type]
    )


# Two inputs and two outputs, in an order that is not the alphabet's.
COMPONENT = component(
    {"tokens": (PROMPTS, WIDTH), "flags": (PROMPTS,)},
    {"masks": (PROMPTS, WIDTH), "iou": (PROMPTS,)},
)


class Layers(nn.Module):
    """A linear layer, an activation, a slice and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(WEIGHT))

    def forward(self, tokens: Tensor, flags: Tensor) -> tuple[Tensor, Tensor]:
        masks = torch.tanh(tokens @ self.weight) * flags[:, None]
        return masks, masks.sum(1)


def wanted(feeds: Feeds) -> dict[str, Array]:
    """Compute the outputs of `Layers` in numpy."""
    masks = np.tanh(feeds["tokens"] @ WEIGHT) * feeds["flags"][:, None]
    return {"masks": masks, "iou": masks.sum(axis=1)}


def feeds() -> dict[str, Array]:
    flags = np.linspace(0.5, 1, PROMPTS, dtype=np.float32)
    return {"tokens": numbers(PROMPTS, WIDTH), "flags": flags}


def save_program(module: nn.Module, spec: ComponentSpec, path: Path) -> Graph:
    """Trace a module with the shapes of a contract, 2 for those that are open."""
    sizes = [[2 if isinstance(n, str) else n for n in s.shape] for s in spec.inputs]
    with torch.no_grad():
        program = torch.export.export(module.eval(), tuple(torch.zeros(s) for s in sizes))
    torch.export.save(program, path)
    return Graph(component=spec, path=path.with_suffix(".onnx"), opset=18, program=path)


def target(name: str, precision: Precision, **options: str) -> TargetProfile:
    """Return a shipped target with additional options."""
    return profiles.load_target(name, precision, options)


class HandMade:
    """A graph of a .tflite file, built record by record."""

    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.buffers = [schema.BufferT()]
        self.model.operatorCodes = []
        self.graph = schema.SubGraphT()
        self.graph.name = b"main"
        self.graph.tensors, self.graph.operators = [], []
        self.graph.inputs, self.graph.outputs = [], []
        self.model.subgraphs = [self.graph]
        self.model.signatureDefs = []

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: int = FLOAT32,
        value: Array | None = None,
    ) -> int:
        """Add a tensor, a constant if it has a value; returns its index."""
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name.encode(), list(shape), dtype
        tensor.buffer = 0
        if value is not None:
            buffer = schema.BufferT()
            buffer.data = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def operator(self, kind: str, inputs: Sequence[int], output: int, custom: str = "") -> None:
        """Add an operator by the schema's name for it."""
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
        code.customCode = custom.encode() or None
        self.model.operatorCodes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs, operator.outputs = list(inputs), [output]
        self.graph.operators.append(operator)

    def signature(self, key: str, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Declare inputs and outputs, under the names of the tensors."""
        entry = schema.SignatureDefT()
        entry.signatureKey, entry.subgraphIndex = key.encode(), 0
        entry.inputs, entry.outputs = self._map(inputs), self._map(outputs)
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        self.model.signatureDefs.append(entry)

    def _map(self, indices: Sequence[int]) -> list[Any]:
        rows = []
        for index in indices:
            row = schema.TensorMapT()
            row.name, row.tensorIndex = self.graph.tensors[index].name, index
            rows.append(row)
        return sorted(rows, key=lambda r: bytes(r.name))


def one_operator(
    kind: str,
    inputs: Sequence[Sequence[int]],
    output: Sequence[int],
    *,
    dtypes: tuple[int, int] = (FLOAT32, FLOAT32),
    custom: str = "",
) -> schema.ModelT:
    """A file of one operator with inputs and an output of these shapes."""
    made = HandMade()
    indices = [made.tensor(f"in{i}", s, dtypes[0]) for i, s in enumerate(inputs)]
    made.operator(kind, indices, made.tensor("out", output, dtypes[1]), custom)
    return made.model
