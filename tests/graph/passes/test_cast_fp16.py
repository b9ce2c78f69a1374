"""Given an FP32 graph; Result: the same graph computing in FP16 between FP32 ends."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
import onnx

from effsam_export.graph import onnx_file
from effsam_export.graph.passes import cast_fp16, round_fp16
from tests.graph.passes.tools import constants, interface, numbers, parse, run

pytestmark = pytest.mark.backend

LINEAR = """
linear (float[n, 3] x) => (float[n, 2] y)
<float[3, 2] w = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6}, float[2] b = {1, 2}>
{
  p = MatMul(x, w)
  y = Add(p, b)
}
"""
SQUARES = """
squares (float[n, 4] x) => (float[n, 4] y)
<float[4] one = {1, 1, 1, 1}>
{
  p = Mul(x, x)
  q = Sqrt(p)
  y = Mul(q, one)
}
"""
FORK = """
fork (float[n, 4] x) => (float[n, 4] wide, float[n, 4] narrow)
{
  p = Mul(x, x)
  wide = Mul(p, p)
  narrow = Mul(p, x)
}
"""
TWICE = """
twice (float[n, 4] x) => (float[n, 4] p, float[n, 4] q)
{
  p = Mul(x, x)
  q = Sqrt(p)
}
"""
COUNTS = """
counts (int64[n, 2] x) => (float[n, 2] y)
{
  f = Cast <to = 1> (x)
  y = Sqrt(f)
}
"""
SHAPES = """
shapes (float[n, 4] x) => (float[m, 2] y)
<int64[2] shape = {-1, 2}, float[2] b = {1, 2}>
{
  p = Reshape(x, shape)
  y = Add(p, b)
}
"""


def test_constants_become_fp16_and_ends_stay_fp32() -> None:
    given = parse(LINEAR)
    before = given.SerializeToString()
    result = cast_fp16.apply(given)
    assert {k: v.dtype for k, v in constants(result).items()} == {
        "w": np.dtype(np.float16),
        "b": np.dtype(np.float16),
    }
    assert interface(result) == interface(given)
    assert [n.op_type for n in result.graph.node].count("Cast") == 2
    assert given.SerializeToString() == before


def test_results_are_those_of_half_precision() -> None:
    given, x = parse(LINEAR), numbers(5, 3)
    (found,), (wanted,) = run(cast_fp16.apply(given), x=x), run(given, x=x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=4e-3)
    assert not np.array_equal(found, wanted)


def test_whole_numbers_stay_as_they_are() -> None:
    given, x = parse(SHAPES), numbers(3, 4)
    result = cast_fp16.apply(given)
    assert constants(result)["shape"].dtype == np.int64
    assert constants(result)["b"].dtype == np.float16
    np.testing.assert_allclose(run(result, x=x)[0], run(given, x=x)[0], atol=4e-3)


# ------------------------------------------------------------------ nodes that stay in FP32


def kept(text: str, *names: str) -> onnx.ModelProto:
    """A graph cast to FP16 but for these nodes, which are named `node_<output>`."""
    given = parse(text)
    for node in given.graph.node:
        node.name = f"node_{node.output[0]}"
    return cast_fp16.apply(given, keep=[f"node_{n}" for n in names])


def casts(model: onnx.ModelProto) -> int:
    return [n.op_type for n in model.graph.node].count("Cast")


def test_no_overflow_between_nodes_that_stay_in_fp32() -> None:
    x = numbers(2, 4) + 300
    (wanted,) = run(parse(SQUARES), x=x)
    (found,) = run(round_fp16.apply(kept(SQUARES, "p", "q")), x=x)
    assert wanted.max() < 400
    np.testing.assert_allclose(found, wanted, rtol=2e-3)
    assert np.isinf(run(round_fp16.apply(kept(SQUARES)), x=x)[0]).all()


def test_there_is_no_cast_between_two_nodes_that_stay() -> None:
    model = kept(SQUARES, "p", "q")
    makers = {o: n for n in model.graph.node for o in n.output}
    (root,) = [n for n in model.graph.node if n.op_type == "Sqrt"]
    assert makers[root.input[0]].op_type == "Mul"
    onnx.checker.check_model(model, full_check=True)


def test_a_graph_that_stays_whole_is_as_it_was() -> None:
    model, x = kept(SQUARES, "p", "q", "y"), numbers(2, 4) + 300
    assert casts(model) == 0
    assert np.array_equal(run(model, x=x)[0], run(parse(SQUARES), x=x)[0])
    assert interface(model) == interface(parse(SQUARES))


def test_a_value_read_in_fp16_and_fp32_is_rounded_for_fp16_only() -> None:
    model, x = round_fp16.apply(kept(FORK, "p", "wide")), numbers(2, 4)
    wide, narrow = run(model, x=x)
    exact = run(parse(FORK), x=x)
    assert np.array_equal(wide, exact[0])
    assert not np.array_equal(narrow, exact[1])
    np.testing.assert_allclose(narrow, exact[1], atol=4e-3)


def test_a_value_that_is_given_twice() -> None:
    model, x = kept(TWICE, "p"), numbers(2, 4)
    for found, wanted in zip(run(model, x=x), run(parse(TWICE), x=x), strict=True):
        np.testing.assert_allclose(found, wanted, atol=4e-3)
    assert interface(model) == interface(parse(TWICE))


def test_a_cast_of_the_model_itself_stays() -> None:
    x = np.array([[3, 100_000]], np.int64)
    model = kept(COUNTS, "y")
    onnx.checker.check_model(model, full_check=True)
    # 100,000 is no FP16: the count goes through it, though the root does not.
    assert np.isinf(run(model, x=x)[0][0, 1])


def test_no_inferred_shapes_are_left() -> None:
    assert not cast_fp16.apply(parse(LINEAR)).graph.value_info


def test_twice_gives_equal_bytes() -> None:
    one, two = (cast_fp16.apply(parse(LINEAR)).SerializeToString() for _ in range(2))
    assert one == two


def test_a_large_graph_is_cast_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past 2 GB types are inferred from files; the limit is moved, the way is the same."""
    for text in (LINEAR, SHAPES):
        plain = cast_fp16.apply(parse(text))
        kept = cast_fp16.apply(parse(text), keep=[parse(text).graph.node[0].name])
        with monkeypatch.context() as patch:
            patch.setattr(onnx_file, "MAX_INLINE_BYTES", -1)
            assert cast_fp16.apply(parse(text)) == plain
            again = cast_fp16.apply(parse(text), keep=[parse(text).graph.node[0].name])
            assert again == kept
