"""Several .tflite files of one signature each to one file with all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.backends.tflite.file import operator_code

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai_edge_litert import schema_py_generated as schema


def merge(models: Sequence[schema.ModelT]) -> schema.ModelT:
    """Put the graphs of all files into the first, in order; the records given are used up.

    Every file has one graph and one signature, with a name of its own; constants and table entries
    are renumbered, and nothing else changes.
    """
    whole, *others = models
    assert all(len(m.subgraphs) == len(m.signatureDefs) == 1 for m in models)
    for other in others:
        buffers = [0, *range(len(whole.buffers), len(whole.buffers) + len(other.buffers) - 1)]
        # The first one is the empty one, for every tensor that is not a constant.
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
    """Index of an operator of another file in this file's table."""
    builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
    return operator_code(whole, builtin, code.version)
