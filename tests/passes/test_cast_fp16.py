"""Given an FP32 graph; Result: the same graph computing in FP16 between FP32 ends."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from effsam_export import onnx_file
from effsam_export.passes import cast_fp16
from tests.passes.tools import constants, interface, numbers, parse, run

pytestmark = pytest.mark.backend

LINEAR = """
linear (float[n, 3] x) => (float[n, 2] y)
<float[3, 2] w = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6}, float[2] b = {1, 2}>
{
  p = MatMul(x, w)
  y = Add(p, b)
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
