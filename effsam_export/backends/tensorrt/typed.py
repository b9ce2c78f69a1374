"""Write the typed ONNX file that an engine is built from, and count its constants and nodes.

A typed file contains the casts and FP16 constants of its precision. TensorRT builds it as a
strongly typed network, in which every node computes in the dtype of its inputs.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.version_converter

from effsam_export.backends.onnx.backend import fp32_constant_elements
from effsam_export.backends.onnx.session import OnnxSession
from effsam_export.backends.receipt import check_precision
from effsam_export.errors import CheckFailed
from effsam_export.graph import onnx_file
from effsam_export.graph.passes import cast_fp16, round_fp16

if TYPE_CHECKING:
    from effsam_export.spec.stages import Graph
    from effsam_export.spec.targets import Precision

SHAPE_OPS = ("Cast", "Constant", "Shape")
"""Operators whose dtype is not a precision of the computation."""
CPU = "CPUExecutionProvider"
FP16_SCALES_OPSET = 19
"""First opset in which QuantizeLinear and DequantizeLinear take FP16 scales."""


@dataclass(frozen=True, kw_only=True)
class TypedOnnx:
    """A typed ONNX file, with the counts read back from it.

    Attributes:
        path: The ONNX file.
        constants: Number of constant elements by numpy dtype name.
        ops: Number of nodes by operator.
        nodes: Nodes that compute in floating point: name -> operator, dtype of the first output.
    """

    path: Path
    constants: dict[str, int]
    ops: dict[str, int]
    nodes: dict[str, tuple[str, str]]

    @property
    def float_ops(self) -> dict[str, int]:
        """Number of nodes that compute in floating point, by dtype."""
        return dict(sorted(Counter(dtype for _, dtype in self.nodes.values()).items()))

    @property
    def fp32_nodes(self) -> dict[str, str]:
        """Nodes that compute in FP32: name -> operator."""
        return {n: op for n, (op, dtype) in self.nodes.items() if dtype == "float32"}

    @property
    def int8(self) -> bool:
        """Whether activations are quantized, not only weights."""
        return "QuantizeLinear" in self.ops

    @property
    def files(self) -> tuple[Path, ...]:
        """The ONNX file, and its external weights if there are any."""
        data = self.path.with_name(f"{self.path.name}.data")
        return (self.path, data) if data.is_file() else (self.path,)


def write(graph: Graph, precision: Precision, out_dir: Path) -> TypedOnnx:
    """Write `<component>.onnx` in a precision, re-open it and check it.

    Raises:
        CheckFailed: The constants do not have the precision, or a node that the recipe keeps in
            FP32 computes in FP16.
    """
    path = out_dir / f"{graph.component.name}.onnx"
    if precision == "int8":
        onnx_file.save(quantized(graph), path)
    elif precision == "fp16":
        onnx_file.save(cast_fp16.apply(onnx.load(graph.path), keep=graph.fp32_nodes), path)
    else:
        for file in graph.files:
            shutil.copyfile(file, out_dir / file.name)
    found = count(path)
    in_fp32 = fp32_constant_elements(path, graph.fp32_nodes) if precision == "fp16" else 0
    check_precision(graph.component.name, precision, found.constants, fp32_by_recipe=in_fp32)
    if precision != "fp32":
        check_fp32_nodes(graph, found)
    return found


def quantized(graph: Graph) -> onnx.ModelProto:
    """Return the graph with the Q/DQ pairs of its recipe and everything else in FP16."""
    from effsam_export.backends.onnx import quantize as onnx_qdq

    assert graph.quantization is not None
    with tempfile.TemporaryDirectory() as name:
        model = onnx_qdq.apply(
            onnx.load(graph.path), graph.quantization, Path(name), for_tensorrt=True
        )
    opset = next(o.version for o in model.opset_import if o.domain == "")
    if opset < FP16_SCALES_OPSET:
        model = onnx.version_converter.convert_version(model, FP16_SCALES_OPSET)
    return cast_fp16.apply(model, keep=graph.fp32_nodes)


SIMULATOR = "ONNX Runtime on the typed ONNX, rounding after every FP16 operation"


def open_simulator(path: Path) -> OnnxSession:
    """Open a typed ONNX file in ONNX Runtime on the CPU, rounding where the file is FP16."""
    model = onnx.load(path)
    kinds = {t.data_type for t in model.graph.initializer}
    if onnx.TensorProto.FLOAT16 not in kinds:
        return OnnxSession(path, CPU)
    return OnnxSession(round_fp16.apply(model).SerializeToString(), CPU)


def check_fp32_nodes(graph: Graph, typed: TypedOnnx) -> None:
    """Check that the nodes that a recipe keeps in FP32 compute in FP32.

    Raises:
        CheckFailed: One of them computes in FP16.
    """
    lost = [n for n in graph.fp32_nodes if typed.nodes.get(n, ("", ""))[1] == "float16"]
    if lost:
        raise CheckFailed(
            f"{graph.component.name}: {len(lost)} of {len(graph.fp32_nodes)} nodes that the "
            f"recipe keeps in FP32 compute in FP16, first `{lost[0]}`"
        )


def count(path: Path) -> TypedOnnx:
    """Count the constants and nodes of a typed ONNX file."""
    model = onnx.load(path, load_external_data=False)
    constants = Counter[str]()
    for tensor in model.graph.initializer:
        constants[_dtype(tensor.data_type)] += int(np.prod(tensor.dims, dtype=np.int64))
    dtypes = _dtypes(model)
    nodes = {}
    for node in model.graph.node:
        dtype = dtypes.get(node.output[0], "unknown")
        if node.op_type in SHAPE_OPS or not dtype.startswith(("float", "bfloat", "unknown")):
            continue
        nodes[node.name or node.output[0]] = node.op_type, dtype
    return TypedOnnx(
        path=path,
        constants=dict(sorted(constants.items())),
        ops=dict(sorted(Counter(n.op_type for n in model.graph.node).items())),
        nodes=nodes,
    )


def _dtypes(model: onnx.ModelProto) -> dict[str, str]:
    """Return the dtype of every tensor by ONNX's type inference."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = [*inferred.input, *inferred.value_info, *inferred.output]
    return {
        # 0 is a tensor whose dtype was not inferred.
        **{v.name: _dtype(e) for v in values if (e := v.type.tensor_type.elem_type)},
        **{t.name: _dtype(t.data_type) for t in inferred.initializer},
    }


def _dtype(code: int) -> str:
    found: Any = onnx.helper.tensor_dtype_to_np_dtype(code)
    return str(np.dtype(found).name)
