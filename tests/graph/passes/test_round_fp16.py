"""Given a graph typed in FP16; Result: a CPU computes it as it is typed."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
import onnx

from effsam_export.graph.passes import cast_fp16, round_fp16
from tests.graph.passes.tools import interface, numbers, parse, run

pytestmark = pytest.mark.backend

CHAIN = """
chain (float[n, 4] x) => (float[n, 4] y)
<float[4, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7}>
{
  p = Mul(x, x)
  q = Sqrt(p)
  y = MatMul(q, w)
}
"""
MOVES = """
moves (float[n, 4] x, int64[2] shape) => (float[a, b] y)
{
  p = Add(x, x)
  q = Reshape(p, shape)
  y = Exp(q)
}
"""


def rounded(text: str) -> onnx.ModelProto:
    return round_fp16.apply(cast_fp16.apply(parse(text)))


def half(values: np.ndarray) -> np.ndarray:
    found: np.ndarray = values.astype(np.float16).astype(np.float32)
    return found


def test_the_runtime_by_itself_does_not_round() -> None:
    """What the pass is there for; should this ever fail, the pass may go."""
    x = np.full((1, 4), 300, np.float32)
    assert np.isfinite(run(cast_fp16.apply(parse(CHAIN)), x=x)[0]).all()


def test_overflow_gives_infinity() -> None:
    x = np.full((1, 4), 300, np.float32)
    assert np.isinf(run(rounded(CHAIN), x=x)[0]).all()


def test_every_operation_is_rounded_once() -> None:
    x = numbers(3, 4)
    weight = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7], np.float32).reshape(4, 4)
    p = half(half(x) * half(x))
    q = half(np.sqrt(p))
    (found,) = run(rounded(CHAIN), x=x)
    # A sum is taken in FP32, in any order, and rounded at its end: one unit in the last place.
    np.testing.assert_allclose(found, half(q @ weight), rtol=1e-3)
    assert np.array_equal(found, half(found))
    assert not np.array_equal(found, run(parse(CHAIN), x=x)[0])


def test_moving_values_changes_none_and_shapes_stay_whole_numbers() -> None:
    x, shape = numbers(2, 4), np.array([4, 2], np.int64)
    (found,) = run(rounded(MOVES), x=x, shape=shape)
    assert found.shape == (4, 2)
    wanted = half(np.exp(half(half(x) + half(x)))).reshape(4, 2)
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_a_graph_in_fp32_is_left_as_it_is() -> None:
    given = parse(CHAIN)
    assert [n.op_type for n in round_fp16.apply(given).graph.node] == ["Mul", "Sqrt", "MatMul"]


def test_nodes_in_fp32_do_not_change() -> None:
    given = parse(CHAIN)
    for node in given.graph.node:
        node.name = node.output[0]
    x = np.full((1, 4), 300, np.float32)
    model = round_fp16.apply(cast_fp16.apply(given, keep=["p", "q"]))
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(run(model, x=x)[0], run(given, x=x)[0], rtol=1e-3)


def test_the_given_model_and_its_interface_stay() -> None:
    given = cast_fp16.apply(parse(CHAIN))
    before = given.SerializeToString()
    model = round_fp16.apply(given)
    assert given.SerializeToString() == before
    assert interface(model) == interface(given)
    onnx.checker.check_model(model, full_check=True)
