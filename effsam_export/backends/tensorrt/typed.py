"""The typed ONNX that engines are compiled from, and what is in it.

Precision is written into the graph: a strongly typed network computes every node in the dtype its
inputs have. What is counted here is therefore what a builder is asked for.
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

from effsam_export.backends.onnx.backend import OnnxSession, kept_elements
from effsam_export.backends.receipt import check_precision
from effsam_export.errors import CheckFailed
from effsam_export.graph import onnx_file
from effsam_export.graph.passes import cast_fp16, round_fp16

if TYPE_CHECKING:
    from effsam_export.spec.stages import Graph
    from effsam_export.spec.targets import Precision

SHAPE_OPS = ("Cast", "Constant", "Shape")
"""Ops whose dtype says nothing about the precision that the graph computes in."""
CPU = "CPUExecutionProvider"
HALF_SCALES = 19
"""The first opset in which Q/DQ take scales in FP16, and so give FP16."""


@dataclass(frozen=True, kw_only=True)
class TypedOnnx:
    """A typed ONNX file and the counts of the re-opened file.

    Attributes:
        constants: Elements of the constants by numpy dtype name.
        ops: Nodes by op type.
        nodes: Nodes that compute in floating point: name -> op type, dtype of the first output.
    """

    path: Path
    constants: dict[str, int]
    ops: dict[str, int]
    nodes: dict[str, tuple[str, str]]

    @property
    def float_ops(self) -> dict[str, int]:
        """Computing nodes by dtype."""
        return dict(sorted(Counter(dtype for _, dtype in self.nodes.values()).items()))

    @property
    def fp32_nodes(self) -> dict[str, str]:
        """Nodes that compute in FP32, name -> op type; all of them in an FP32 graph."""
        return {n: op for n, (op, dtype) in self.nodes.items() if dtype == "float32"}

    @property
    def int8(self) -> bool:
        """Whether activations are quantized, and not weights alone."""
        return "QuantizeLinear" in self.ops

    @property
    def files(self) -> tuple[Path, ...]:
        """The file, and its weights where they lie outside."""
        data = self.path.with_name(f"{self.path.name}.data")
        return (self.path, data) if data.is_file() else (self.path,)


def write(graph: Graph, precision: Precision, out_dir: Path) -> TypedOnnx:
    """Write `<component>.onnx` with the precision in the graph, re-open it and count.

    Raises:
        CheckFailed: The constants do not have the asked dtype, or a node the recipe keeps in
            FP32 is not.
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
    kept = kept_elements(path, graph.fp32_nodes) if precision == "fp16" else 0
    check_precision(graph.component.name, precision, found.constants, kept_fp32=kept)
    if precision != "fp32":
        check_kept(graph, found)
    return found


def quantized(graph: Graph) -> onnx.ModelProto:
    """The graph with Q/DQ pairs where its recipe wants them, and all the rest in FP16."""
    from effsam_export.backends.onnx import quantize as onnx_qdq

    assert graph.quantization is not None
    with tempfile.TemporaryDirectory() as name:
        model = onnx_qdq.apply(
            onnx.load(graph.path), graph.quantization, Path(name), for_tensorrt=True
        )
    opset = next(o.version for o in model.opset_import if o.domain == "")
    if opset < HALF_SCALES:
        model = onnx.version_converter.convert_version(model, HALF_SCALES)
    return cast_fp16.apply(model, keep=graph.fp32_nodes)


SIMULATOR = "ONNX Runtime on the typed ONNX, rounding after every FP16 operation"


def open_simulator(path: Path) -> OnnxSession:
    """What runs a typed ONNX on a CPU in the place of an engine, FP16 as it is typed."""
    model = onnx.load(path)
    kinds = {t.data_type for t in model.graph.initializer}
    if onnx.TensorProto.FLOAT16 not in kinds:
        return OnnxSession(path, CPU)
    return OnnxSession(round_fp16.apply(model).SerializeToString(), CPU)


def check_kept(graph: Graph, typed: TypedOnnx) -> None:
    """Hold the nodes of an FP16 graph against the recipe that keeps some in FP32.

    Raises:
        CheckFailed: A node the recipe keeps computes in FP16.
    """
    lost = [n for n in graph.fp32_nodes if typed.nodes.get(n, ("", ""))[1] == "float16"]
    if lost:
        raise CheckFailed(
            f"{graph.component.name}: {len(lost)} of {len(graph.fp32_nodes)} nodes that stay in "
            f"FP32 compute in FP16, first `{lost[0]}`"
        )


def count(path: Path) -> TypedOnnx:
    """Open a typed ONNX file and count what it holds."""
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
    """Dtype of every tensor, by ONNX's own inference."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = [*inferred.input, *inferred.value_info, *inferred.output]
    return {
        # 0: inference knows the shape of a tensor and not its dtype.
        **{v.name: _dtype(e) for v in values if (e := v.type.tensor_type.elem_type)},
        **{t.name: _dtype(t.data_type) for t in inferred.initializer},
    }


def _dtype(code: int) -> str:
    found: Any = onnx.helper.tensor_dtype_to_np_dtype(code)
    return str(np.dtype(found).name)
