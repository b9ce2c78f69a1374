"""Reshape large convolution weights for `ai-edge-quantizer`, and restore their shapes afterwards.

The library quantizes weights over 32 MiB in chunks, and then supports two axes only:

    Given   CONV_2D weights [1024, 1, 1, 12288]     Result  [1024, 12288], and back afterwards

The output channels, each with a scale, are the first axis of both. A runtime could not load the
file in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from effsam_export.backends.tflite import file as tflite_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ai_edge_litert import schema_py_generated as schema

LIMIT = 32 * 1024 * 1024
"""Bytes in FP32. Source: ai-edge-quantizer 0.10.0, `uniform_quantize_tensor.uniform_quantize`."""
KINDS = ("CONV_2D", "TRANSPOSE_CONV")
"""Operators whose weights have four axes, the output channels first."""


def flatten(model: schema.ModelT) -> dict[bytes, tuple[int, ...]]:
    """Reshape large weights to two axes.

    Args:
        model: A file with one graph, changed in place.

    Returns:
        Original shapes by tensor name, for `restore`.
    """
    graph = model.subgraphs[0]
    shapes: dict[bytes, tuple[int, ...]] = {}
    for operator in graph.operators:
        if tflite_file.operator_name(model, operator) not in KINDS:
            continue
        tensor = graph.tensors[operator.inputs[1]]
        shape = tflite_file.shape_of(tensor)
        size = int(np.prod(shape)) * np.float32().nbytes
        if size > LIMIT and model.buffers[tensor.buffer].data is not None:
            # `setdefault`: a second operator with the same weights finds them reshaped.
            shapes.setdefault(tensor.name, shape)
            tensor.shape = [shape[0], size // np.float32().nbytes // shape[0]]
    return shapes


def restore(model: schema.ModelT, shapes: Mapping[bytes, tuple[int, ...]]) -> None:
    """Restore the shapes of weights and of the outputs of their DEQUANTIZE operators."""
    graph = model.subgraphs[0]
    producers = {o.outputs[0]: o for o in graph.operators}
    for operator in graph.operators:
        if tflite_file.operator_name(model, operator) not in KINDS:
            continue
        indices = [operator.inputs[1]]
        if indices[0] in producers:
            indices.append(producers[indices[0]].inputs[0])
        tensors = [graph.tensors[i] for i in indices]
        shape = next((shapes[t.name] for t in tensors if t.name in shapes), None)
        if shape is None:
            continue
        for tensor in tensors:
            tensor.shape = list(shape)
