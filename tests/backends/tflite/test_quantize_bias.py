"""Bias tables of attention in INT8: which are stored, and their error."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from effsam_export.backends.tflite import file as tflite_file
from effsam_export.backends.tflite import quantize_bias
from tests.backends.tflite.tools import HandMade


def test_table_error_is_small_and_zero_is_exact() -> None:
    values = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    values[0, 1] = 0
    values[0, 2] -= 30
    rounded, scales, zeros = quantize_bias.to_int8(values, 1)
    back = (rounded.astype(np.float32) - zeros[:, None, None]) * scales[:, None, None]
    assert (np.abs(back - values) <= scales[:, None, None] * 0.501).all()
    assert not back[0, 1].any()
    assert rounded.dtype == np.int8
    assert zeros.dtype == np.int64


@pytest.mark.parametrize(
    ("shape", "kind", "found"),
    [
        ((1, 2, 32, 32), "SOFTMAX", True),
        ((1, 2, 8, 8), "SOFTMAX", False),
        ((1, 2, 32, 32), "TANH", False),
    ],
    ids=["table", "small", "no scores"],
)
def test_only_large_bias_tables_are_stored_in_int8(
    shape: tuple[int, ...], kind: str, *, found: bool
) -> None:
    made = HandMade()
    table = np.linspace(-4, 1, int(np.prod(shape)), dtype=np.float32)
    ends = made.tensor("x", shape), made.tensor("table", shape, value=table)
    total, out = made.tensor("sum", shape), made.tensor("out", shape)
    made.operator("ADD", ends, total)
    made.operator(kind, [total], out)
    assert quantize_bias.store_tables_in_int8(made.model) == (("table",) if found else ())
    counts = tflite_file.count_constants(made.model)
    assert counts == {"int8" if found else "float32": table.size}
    # The table is made before it is added.
    names = list(tflite_file.count_operators(made.model))
    assert ("DEQUANTIZE" in names) == found
    if found:
        first = made.graph.operators[0]
        assert tflite_file.operator_name(made.model, first) == "DEQUANTIZE"
