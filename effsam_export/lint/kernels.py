"""Rules on operators that a runtime does not have, or does not have in FP16."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.lint.findings import Hit
from effsam_export.lint.subject import folded, is_float, op_of, shape_of, times

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence

    from torch.fx import Node

    from effsam_export.lint.subject import Subject

# Source: google-ai-edge/LiteRT, `tflite/tools/versioning/gpu_compatibility.cc`.
NOT_ON_DELEGATE: Mapping[str, str] = {
    "argmax": "ARG_MAX",
    "argmin": "ARG_MIN",
    "argsort": "a sort",
    "expand": "BROADCAST_TO",
    "expand_as": "BROADCAST_TO",
    "gather": "GATHER_ND",
    "index": "GATHER_ND",
    "index_put": "SCATTER_ND",
    "index_put_": "SCATTER_ND",
    "logical_not": "LOGICAL_NOT",
    "logical_or": "LOGICAL_OR",
    "roll": "a chain of slices",
    "scatter": "SCATTER_ND",
    "sort": "a sort",
    "topk": "TOPK_V2",
}
# Operators with neither a lowering in litert-torch 0.10 nor a core decomposition in torch. Flex, a
# part of TensorFlow that an app would have to ship, has some of them.
NOT_IN_TFLITE = (
    *("bincount", "bucketize", "erfinv", "grid_sampler", "histc", "kthvalue", "masked_select"),
    *("median", "mode", "searchsorted", "unique", "unique2", "unique_consecutive", "unique_dim"),
)
# Source: the registry of torch operators of coremltools 9.0.
NOT_IN_CORE_ML = (
    *("bincount", "bucketize", "cdist", "erfinv", "histc", "isin", "kthvalue", "linalg_svd"),
    *("masked_select", "median", "mode", "trunc", "unique", "unique2", "unique_consecutive"),
    *("unique_dim", "var_mean"),
)
# Source: onnxruntime 1.31, `transformers/float16.py`, DEFAULT_OP_BLOCK_LIST.
NOT_IN_FP16: Mapping[str, str] = {
    "cumsum": "CumSum",
    "maximum": "Max",
    "minimum": "Min",
    "topk": "TopK",
}


def delegate_operators(subject: Subject) -> Iterator[Hit]:
    """Yield operators that LiteRT's GPU delegate does not have."""
    for node in _listed(subject, NOT_ON_DELEGATE):
        # The converter drops an expansion that does not change the shape.
        if not op_of(node).startswith("expand") or _grows(node):
            yield Hit(node=node, detail=f"becomes {NOT_ON_DELEGATE[op_of(node)]}")


def tflite_operators(subject: Subject) -> Iterator[Hit]:
    """Yield operators that have no builtin in TFLite."""
    for node in _listed(subject, NOT_IN_TFLITE):
        yield Hit(node=node, detail="no builtin operator")


def core_ml_operators(subject: Subject) -> Iterator[Hit]:
    """Yield operators that coremltools does not convert."""
    for node in _listed(subject, NOT_IN_CORE_ML):
        yield Hit(node=node, detail="no conversion")


def forbidden_operators(subject: Subject) -> Iterator[Hit]:
    """Yield operators that the target file forbids by TFLite's name and that are known here."""
    names = str(subject.target.options.get("forbidden_ops", "")).replace(",", " ").split()
    for node in _listed(subject, {op: n for op, n in NOT_ON_DELEGATE.items() if n in names}):
        if not op_of(node).startswith("expand") or _grows(node):
            yield Hit(node=node, detail=f"becomes {NOT_ON_DELEGATE[op_of(node)]}")


def fp16_operators(subject: Subject) -> Iterator[Hit]:
    """Yield operators that ONNX Runtime's FP16 conversion leaves in FP32, between casts."""
    for node in subject.fp16_calls:
        if op_of(node) in NOT_IN_FP16 and _computes_floats(node):
            yield Hit(node=node, detail=f"{NOT_IN_FP16[op_of(node)]} stays in FP32, between casts")


def _listed(subject: Subject, table: Container[str]) -> Sequence[Node]:
    """Return the nodes with an operator of a table, without those that a converter folds."""
    constants = subject.constants
    return [n for n in subject.calls if op_of(n) in table and not folded(n, constants)]


def _grows(node: Node) -> bool:
    source = node.all_input_nodes[0]
    return times(shape_of(node)) != times((1,) * _missing(node, source) + shape_of(source))


def _missing(node: Node, source: Node) -> int:
    return len(shape_of(node)) - len(shape_of(source))


def _computes_floats(node: Node) -> bool:
    return is_float(node) or any(is_float(n) for n in node.all_input_nodes)
