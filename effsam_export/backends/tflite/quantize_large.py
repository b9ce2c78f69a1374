"""Large convolutions, in the form that `ai-edge-quantizer` takes them in.

It rounds weights of more than 32 MiB in pieces, and then expects two axes:

    Given   CONV_2D weights [1024, 1, 1, 12288]     Result  [1024, 12288], and back afterwards

The output channels, each with its scale, are the first axis of both. The library only reads shapes
and constants; a runtime would not take the form in between.
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
    """Give large weights two axes.

    Args:
        model: A file with one graph, changed in place.

    Returns:
        The shapes they had, by name, for `restore`.
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
            # A second operator with the same weights finds them flat.
            shapes.setdefault(tensor.name, shape)
            tensor.shape = [shape[0], size // np.float32().nbytes // shape[0]]
    return shapes


def restore(model: schema.ModelT, shapes: Mapping[bytes, tuple[int, ...]]) -> None:
    """Give weights, and what the library unpacks of them, the shapes back that they had."""
    graph = model.subgraphs[0]
    made = {o.outputs[0]: o for o in graph.operators}
    for operator in graph.operators:
        if tflite_file.operator_name(model, operator) not in KINDS:
            continue
        places = [operator.inputs[1]]
        if places[0] in made:
            places.append(made[places[0]].inputs[0])
        tensors = [graph.tensors[i] for i in places]
        shape = next((shapes[t.name] for t in tensors if t.name in shapes), None)
        if shape is None:
            continue
        for tensor in tensors:
            tensor.shape = list(shape)
