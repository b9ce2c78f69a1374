"""Graphs from ONNX's text format, and what they compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from numpy.typing import NDArray

Array = NDArray[Any]


def parse(body: str) -> onnx.ModelProto:
    """A checked model of opset 18 from the text of its graph."""
    header = '<ir_version: 9, opset_import: ["" : 18]>'
    model: onnx.ModelProto = onnx.parser.parse_model(f"{header}\n{body}")
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, **feeds: Array) -> list[Array]:
    """The outputs of a checked model in ONNX Runtime, unoptimised."""
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
    )
    outputs: list[Array] = session.run(None, feeds)
    return outputs


def numbers(*shape: int) -> Array:
    """Standard normal numbers, the same at every call."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def constants(model: onnx.ModelProto) -> dict[str, Array]:
    """The constants of a model by name."""
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def interface(model: onnx.ModelProto) -> list[str]:
    """Names and types of inputs and outputs."""
    return [f"{v.name} {v.type}" for v in (*model.graph.input, *model.graph.output)]
