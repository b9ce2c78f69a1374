"""Given constants that are equal; Result: one of them, used by all nodes."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx_ir")

from effsam_export.graph.passes import share_constants
from tests.graph.passes.tools import constants, interface, numbers, parse, run

pytestmark = pytest.mark.backend

EQUAL = """
same (float[n, 3] x) => (float[n, 3] y)
<float[3] a = {1, 2, 3}, float[3] b = {1, 2, 3}, float[3] c = {1, 2, 4}>
{
  p = Add(x, a)
  q = Mul(p, b)
  y = Add(q, c)
}
"""


def test_equal_constants_become_one() -> None:
    given = parse(EQUAL)
    before = given.SerializeToString()
    result, note = share_constants.apply(given)
    assert note == "3 to 2 constants"
    assert list(constants(result)) == ["a", "c"]
    assert [list(n.input) for n in result.graph.node] == [["x", "a"], ["p", "a"], ["q", "c"]]
    assert interface(result) == interface(given)
    assert given.SerializeToString() == before
    np.testing.assert_array_equal(run(result, x=numbers(2, 3)), run(given, x=numbers(2, 3)))


@pytest.mark.parametrize(
    "declared",
    [
        "float[2] a = {1, 2}, float[2] b = {1, 3}",
        "float[2] a = {1, 2}, float[1, 2] b = {1, 2}",
        "float[2] a = {0, 2}, float[2] b = {-0, 2}",
    ],
    ids=["values", "shapes", "signs of zero"],
)
def test_constants_that_differ_stay(declared: str) -> None:
    given = parse(
        "differ (float[2, 2] x) => (float[2, 2] y)\n"
        f"<{declared}>\n{{\n  p = Add(x, a)\n  y = Add(p, b)\n}}"
    )
    if "-0" in declared:
        given.graph.initializer[1].float_data[0] = -0.0
    result, note = share_constants.apply(given)
    assert note == "no two constants are equal"
    assert list(constants(result)) == ["a", "b"]


def test_constants_of_other_dtypes_stay() -> None:
    given = parse(
        "dtypes (float[2] x) => (float[2] y, int32[2] z)\n"
        "<float[2] a = {0, 0}, int32[2] b = {0, 0}>\n{\n  y = Add(x, a)\n  z = Add(b, b)\n}"
    )
    result, note = share_constants.apply(given)
    assert note == "no two constants are equal"
    assert list(constants(result)) == ["a", "b"]


def test_large_constants_are_compared() -> None:
    # The pass behind it stops at 1024 elements by default.
    table = f"{{{', '.join(str(i) for i in range(1600))}}}"
    given = parse(
        "large (float[1600] x) => (float[1600] y)\n"
        f"<float[1600] a = {table}, float[1600] b = {table}>\n"
        "{\n  p = Add(x, a)\n  y = Add(p, b)\n}"
    )
    result, note = share_constants.apply(given)
    assert note == "2 to 1 constants"
    x = numbers(1600)
    np.testing.assert_array_equal(run(result, x=x), run(given, x=x))


def test_a_constant_that_is_an_output_keeps_its_name() -> None:
    given = parse(
        "output (float[2] x) => (float[2] y, float[2] b)\n"
        "<float[2] a = {1, 2}, float[2] b = {1, 2}>\n{\n  y = Add(x, a)\n}"
    )
    result, _ = share_constants.apply(given)
    assert interface(result) == interface(given)
    x = numbers(2)
    for found, wanted in zip(run(result, x=x), run(given, x=x), strict=True):
        np.testing.assert_array_equal(found, wanted)
