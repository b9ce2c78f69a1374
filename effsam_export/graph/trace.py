"""Trace one component of a model to a `torch.export` program, and convert that to ONNX."""

from __future__ import annotations

import io
import logging
import re
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import onnx
import torch

from effsam_export.graph import onnx_file
from effsam_export.spec.stages import Graph

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import nn
    from torch.export import ExportedProgram

    from effsam_export.spec.model import ComponentSpec

MAX_DYNAMIC = 1024
"""Upper bound of a dynamic dimension (prompts in a batch, points in a prompt)."""
MAX_PIXELS = 65_535
"""Upper bound of the dimensions `height` and `width` of an image that the graph resizes or pads."""


def trace(module: nn.Module, component: ComponentSpec) -> ExportedProgram:
    """Trace the export form of one component, with the dynamic dimensions of its spec."""
    wrapped = component.wrap(module).eval()
    example = component.example()
    dims = {
        size: torch.export.Dim(
            size, min=1, max=MAX_PIXELS if size in ("height", "width") else MAX_DYNAMIC
        )
        for spec in component.inputs
        for size in spec.shape
        if isinstance(size, str)
    }
    shapes = tuple(
        {axis: dims[size] for axis, size in enumerate(spec.shape) if isinstance(size, str)}
        for spec in component.inputs
    )
    with torch.no_grad():
        return torch.export.export(
            wrapped, tuple(example[s.name] for s in component.inputs), dynamic_shapes=shapes
        )


def save(program: ExportedProgram, path: Path) -> Path:
    """Write a traced program to a `.pt2` file.

    Raises:
        OSError: The file cannot be written.
    """
    # torch's own file writer ends the process if the disk is full, without an exception.
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    path.write_bytes(buffer.getbuffer())
    return path


def to_onnx(program: ExportedProgram, component: ComponentSpec, opset: int, out_dir: Path) -> Graph:
    """Write a traced program as ONNX, with the input and output names of its spec.

    torch's exporter (`dynamo=True`) folds batch normalisation into convolutions.
    """
    path = out_dir / f"{component.name}.onnx"
    with _quiet_exporter():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            input_names=[s.name for s in component.inputs],
            output_names=[s.name for s in component.outputs],
            verbose=False,
            external_data=False,
        )
    assert exported is not None
    model: onnx.ModelProto = exported.model_proto
    _name_dimensions(model, component)
    problems = signature_faults(model, component)
    # A bug: the spec of a component does not match its export form.
    assert not problems, f"{component.name}: {'; '.join(problems)}"
    onnx_file.save(model, path)
    return Graph(component=component, path=path, opset=opset)


def signature_faults(model: onnx.ModelProto, component: ComponentSpec) -> list[str]:
    """Return where a graph's inputs and outputs differ from its spec in name, shape or dtype."""
    problems = []
    for kind, values, specs in (
        ("input", model.graph.input, component.inputs),
        ("output", model.graph.output, component.outputs),
    ):
        actual = [(v.name, _shape(v), _dtype(v)) for v in values]
        expected = [(s.name, s.shape, s.dtype) for s in specs]
        if actual != expected:
            problems.append(f"{kind}s are {actual}, want {expected}")
    return problems


def _name_dimensions(model: onnx.ModelProto, component: ComponentSpec) -> None:
    """Replace the exporter's symbols for dynamic sizes (`s20`) by the names of the spec."""
    renames = {
        symbol: name
        for value, spec in zip(model.graph.input, component.inputs, strict=True)
        for symbol, name in zip(_shape(value), spec.shape, strict=True)
        if isinstance(symbol, str) and isinstance(name, str)
    }
    # Sizes of outputs that are values of an input.
    for value, spec in zip(model.graph.output, component.outputs, strict=True):
        for symbol, name in zip(_shape(value), spec.shape, strict=True):
            if isinstance(symbol, str) and isinstance(name, str):
                renames.setdefault(symbol, name)
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(
                    r"\w+", lambda m: renames.get(m.group(), m.group()), dim.dim_param
                )


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim)


def _dtype(value: onnx.ValueInfoProto) -> str:
    dtype: Any = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return str(dtype.name)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hide the exporter's messages about optional packages; errors are still shown."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # These warnings come from code of torch and onnxscript.
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
