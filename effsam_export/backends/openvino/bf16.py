"""BF16: weights stored in BF16, depthwise convolutions kept in FP32, and what a CPU really runs.

The arithmetic is chosen by the property `INFERENCE_PRECISION_HINT` when a file is opened. The file
can only exclude operators, by an attribute that the CPU plugin follows for some kinds of operators
and ignores for others without a message.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino
from openvino import opset13

from effsam_export.errors import CheckFailed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from effsam_export.spec.stages import Graph

MATRIX_LAYERS = ("Convolution", "ConvolutionBackpropData", "MatMul")
"""Kinds of layers of an IR that gain from BF16; depthwise ones are `GroupConvolution`."""
KEPT = "GroupConvolution"
"""They take as long in FP32 as in BF16 and cause half of the error of MobileSAM's embedding."""
KEEP_ATTRIBUTE = "precise_0"
"""OpenVINO writes it as `DisablePrecisionConversion`."""
EXECUTED_LAYERS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
"""Kinds of layers of a compiled model."""
MIN_SHARE = 0.9
"""Minimum share of the other layers that have to run in BF16."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer of a compiled model.

    Attributes:
        names: Operators of the IR that it computes.
        precision: Type of its arithmetic, as `bf16`.
    """

    names: tuple[str, ...]
    precision: str


def apply(model: openvino.Model) -> None:
    """Store the weights of layers in BF16, and mark depthwise convolutions to stay in FP32.

    A CPU rounds the weights of such layers to BF16 in any case, so storing them so loses nothing.
    """
    stored: dict[str, openvino.Output] = {}
    for op in model.get_ordered_ops():
        if op.get_type_name() == KEPT:
            op.get_rt_info()[KEEP_ATTRIBUTE] = ""
        for index, weight in weights_of(op).items():
            name = weight.get_friendly_name()
            if name not in stored:
                # OpenVINO cuts off the lower bits; after rounding they are zero.
                values = rounded(np.asarray(weight.get_data()))
                constant = opset13.constant(values, dtype=openvino.Type.bf16, name=name)
                stored[name] = opset13.convert(constant, "f32").output(0)
            op.input(index).replace_source_output(stored[name])


def rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return FP32 numbers rounded to the nearest BF16 number, of two to the even one."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    even = (bits >> 16) & 1
    return ((bits + 0x7FFF + even) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def is_fp32_constant(node: openvino.Node) -> bool:
    """Return whether a node is a constant in FP32."""
    return bool(node.get_type_name() == "Constant" and node.get_element_type() == openvino.Type.f32)


def weights_of(op: openvino.Node) -> dict[int, openvino.Node]:
    """Return the FP32 weights of an operator that runs in BF16, by the index of their input."""
    if op.get_type_name() not in MATRIX_LAYERS or has_batched_constant(op):
        return {}
    constants = {i: op.input_value(i).get_node() for i in (0, 1)}
    return {i: node for i, node in constants.items() if is_fp32_constant(node)}


def has_batched_constant(op: openvino.Node) -> bool:
    """Return whether an operator is a product with a constant that is no matrix.

    OpenVINO changes no type of such a constant, and computes the product in FP32.
    """
    constants = [v for v in op.input_values() if v.get_node().get_type_name() == "Constant"]
    return op.get_type_name() == "MatMul" and any(len(v.get_shape()) != 2 for v in constants)


def fp32_elements_beside_layers(path: Path) -> int:
    """Return the number of FP32 constants of an IR that are no weights of a layer in BF16."""
    ops = openvino.Core().read_model(str(path)).get_ops()
    weights = {w.get_friendly_name() for op in ops for w in weights_of(op).values()}
    others = [o for o in ops if is_fp32_constant(o) and o.get_friendly_name() not in weights]
    return sum(int(np.prod(o.get_output_shape(0), dtype=np.int64)) for o in others)


def executed(compiled: Any) -> dict[str, int]:  # noqa: ANN401 - an object without types
    """Return the number of operators of a compiled model by type of their arithmetic, as `bf16`.

    Constants, inputs, outputs, conversions and operators on whole numbers are left out.
    """
    counts = Counter[str]()
    for op in compiled.get_runtime_model().get_ops():
        kind, precision = info(op, "layerType"), info(op, "runtimePrecision")
        if kind not in ("Const", "Input", "Output", "Reorder") and precision[:1] in ("f", "b"):
            counts[precision] += 1
    return dict(sorted(counts.items()))


def executed_layers(compiled: Any) -> list[Layer]:  # noqa: ANN401 - an object without types
    """Return the layers of a compiled model."""
    return [
        Layer(
            names=tuple(info(op, "originalLayersNames").split(",")),
            precision=info(op, "runtimePrecision"),
        )
        for op in compiled.get_runtime_model().get_ops()
        if info(op, "layerType") in EXECUTED_LAYERS
    ]


def info(op: openvino.Node, key: str) -> str:
    """Return an entry of the runtime information of an operator; empty without it."""
    entries = op.get_rt_info()
    return str(entries[key].astype(str)) if key in entries else ""


def check_layers(graph: Graph, path: Path, layers: Sequence[Layer]) -> None:
    """Check that a CPU with BF16 runs the layers of an IR as the file says.

    Args:
        graph: The component.
        path: The `.xml`.
        layers: From `executed_layers`.

    Raises:
        CheckFailed: A layer that is marked to stay in FP32 does not, or too many others do.
    """
    ops = openvino.Core().read_model(str(path)).get_ops()
    kept = {op.get_friendly_name() for op in ops if op.get_type_name() == KEPT}
    free = {op.get_friendly_name() for op in ops if has_batched_constant(op)}
    ignored = [x for x in layers if kept & {*x.names} and x.precision != "f32"]
    others = [x for x in layers if not (kept | free) & {*x.names}]
    fast = [x for x in others if x.precision == "bf16"]
    if ignored:
        raise CheckFailed(
            f"{graph.component.name}: OpenVINO computes `{ignored[0].names[0]}` in "
            f"{ignored[0].precision}, which the file keeps in f32",
            hint="export with --precision fp32, or with another version of OpenVINO",
        )
    if len(fast) < MIN_SHARE * len(others):
        raise CheckFailed(
            f"{graph.component.name}: the precision is bf16, but OpenVINO computes {len(fast)} of "
            f"{len(others)} layers in bf16",
            hint="export with --precision fp32, or with another version of OpenVINO",
        )
