"""Merge .tflite files with one signature each to one file with all signatures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.backends.tflite.file import operator_code

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai_edge_litert import schema_py_generated as schema


def merge(models: Sequence[schema.ModelT]) -> schema.ModelT:
    """Move the graphs of all files into the first, in order, and return it.

    Every file must have one graph and one signature with a unique name. Constants and operator
    table entries are renumbered. The records of the other files must not be used afterwards.
    """
    whole, *others = models
    assert all(len(m.subgraphs) == len(m.signatureDefs) == 1 for m in models)
    for other in others:
        buffers = [0, *range(len(whole.buffers), len(whole.buffers) + len(other.buffers) - 1)]
        # Buffer 0 is empty and belongs to every tensor that is not a constant.
        whole.buffers += other.buffers[1:]
        codes = [_copied_code(whole, code) for code in other.operatorCodes]
        graph, signature = other.subgraphs[0], other.signatureDefs[0]
        for tensor in graph.tensors:
            tensor.buffer = buffers[tensor.buffer]
        for operator in graph.operators:
            operator.opcodeIndex = codes[operator.opcodeIndex]
        signature.subgraphIndex = len(whole.subgraphs)
        whole.subgraphs.append(graph)
        whole.signatureDefs.append(signature)
    for graph, signature in zip(whole.subgraphs, whole.signatureDefs, strict=True):
        graph.name = signature.signatureKey
    return whole


def _copied_code(whole: schema.ModelT, code: schema.OperatorCodeT) -> int:
    """Return the index of another file's operator in this file's operator table."""
    builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
    return operator_code(whole, builtin, code.version)
