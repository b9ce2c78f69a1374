"""Measure activation ranges of an ONNX graph over the calibration samples, by three methods.

The graph itself computes the minimum, the maximum and a subsample of each activation. Whole
activations are never outputs: those of a ViT-H take over 10 GB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from effsam_export.graph import onnx_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from effsam_export.spec.int8 import Method
    from effsam_export.spec.tensors import Array, Feeds

    Range = tuple[float, float]

STEP = 211
"""Step of the subsample. Prime, so that the samples do not all fall on one channel."""
TAIL = 1e-5
"""Share of the values that `percentile` cuts off at each end."""
SHARES = np.linspace(0.3, 1.0, 36)
"""Shares of the min-max range that `mse` compares."""
LEVELS = 255
"""Number of quantization steps of a range."""


def measure(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    feeds: Iterable[Feeds],
    method: Method,
    scratch: Path,
) -> dict[str, Range]:
    """Return the range (minimum, maximum) of each tensor; every range includes zero.

    Args:
        model: FP32 graph; not changed.
        tensors: Names of activations, graph inputs included.
        feeds: Samples, at least one.
        method: `minmax`, `percentile` or `mse`.
        scratch: Directory for a temporary ONNX file.
    """
    if not tensors:
        return {}
    path = scratch / "ranges.onnx"
    onnx_file.save(_with_statistics(model, tensors, sampled=method != "minmax"), path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    session = onnxruntime.InferenceSession(
        str(path), sess_options=options, providers=["CPUExecutionProvider"]
    )
    names = [o.name for o in session.get_outputs()]
    lows = dict.fromkeys(tensors, 0.0)
    highs = dict.fromkeys(tensors, 0.0)
    values: dict[str, list[Array]] = {t: [] for t in tensors}
    for feed in feeds:
        found = dict(zip(names, session.run(names, dict(feed)), strict=True))
        for i, tensor in enumerate(tensors):
            lows[tensor] = min(lows[tensor], float(found[f"low_{i}"]))
            highs[tensor] = max(highs[tensor], float(found[f"high_{i}"]))
            if method != "minmax":
                values[tensor].append(found[f"values_{i}"])
    for file in (path, path.with_name(f"{path.name}.data")):
        file.unlink(missing_ok=True)
    if method == "minmax":
        return {t: (lows[t], highs[t]) for t in tensors}
    narrow = _percentile if method == "percentile" else _min_error
    return {t: narrow(np.concatenate(values[t]), (lows[t], highs[t])) for t in tensors}


def _with_statistics(
    model: onnx.ModelProto, tensors: Sequence[str], *, sampled: bool
) -> onnx.ModelProto:
    """Return a copy of a graph whose outputs are statistics of its activations."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    graph = out.graph
    del graph.output[:]
    constants: Mapping[str, Array] = {
        "statistics_flat": np.array([-1], np.int64),
        "statistics_start": np.array([0], np.int64),
        "statistics_axis": np.array([0], np.int64),
        "statistics_end": np.array([np.iinfo(np.int64).max], np.int64),
        "statistics_step": np.array([STEP], np.int64),
    }
    if sampled:
        graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    for i, tensor in enumerate(tensors):
        for op, name in (("ReduceMin", f"low_{i}"), ("ReduceMax", f"high_{i}")):
            graph.node.append(helper.make_node(op, [tensor], [name], keepdims=0))
            graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))
        if sampled:
            flat, name = f"statistics_flat_{i}", f"values_{i}"
            every = [f"statistics_{what}" for what in ("start", "end", "axis", "step")]
            graph.node.append(helper.make_node("Reshape", [tensor, "statistics_flat"], [flat]))
            graph.node.append(helper.make_node("Slice", [flat, *every], [name]))
            graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]))
    return out


def _percentile(values: Array, whole: Range) -> Range:
    low, high = np.quantile(values, [TAIL, 1 - TAIL])
    return max(min(float(low), 0.0), whole[0]), min(max(float(high), 0.0), whole[1])


def _min_error(values: Array, whole: Range) -> Range:
    """Return the share of a range with the minimum squared error of clipping and rounding."""
    best, minimum = whole, np.inf
    for share in SHARES:
        low, high = whole[0] * share, whole[1] * share
        scale = (high - low) / LEVELS
        if scale <= 0:
            return whole
        zero = np.round(-low / scale)
        rounded = (np.clip(np.round(values / scale) + zero, 0, LEVELS) - zero) * scale
        error = float(np.square(rounded - values, dtype=np.float64).mean())
        if error < minimum:
            best, minimum = (float(low), float(high)), error
    return best
