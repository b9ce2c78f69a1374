"""Given any graph; Result: onnxsim's simplification, or the graph itself and why."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnxsim")
import onnx
import onnxsim

from effsam_export.graph.passes import simplify
from tests.graph.passes.tools import interface, numbers, parse, run

pytestmark = pytest.mark.backend

FOLDABLE = """
foldable (float[n, 2] x) => (float[n, 2] y)
<float[2] a = {1, 2}, float[2] b = {3, 4}>
{
  c = Add(a, b)
  p = Identity(x)
  y = Mul(p, c)
}
"""


def test_constants_are_folded() -> None:
    given = parse(FOLDABLE)
    before = given.SerializeToString()
    result, note = simplify.apply(given)
    assert note == "3 to 1 nodes"
    assert [n.op_type for n in result.graph.node] == ["Mul"]
    assert interface(result) == interface(given)
    assert given.SerializeToString() == before
    x = numbers(3, 2)
    np.testing.assert_array_equal(run(result, x=x), run(given, x=x))


def test_refused_when_results_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    given = parse(FOLDABLE)
    monkeypatch.setattr(onnxsim, "simplify", lambda _: (onnx.ModelProto(), False))
    result, note = simplify.apply(given)
    assert result is given
    assert note == "refused: onnxsim's check gave different results"


@pytest.mark.parametrize(
    ("kind", "renamed"),
    [
        ("inputs", FOLDABLE.replace("float[n, 2] x", "float[m, 2] x")),
        ("inputs", FOLDABLE.replace("x)", "image)")),
        ("outputs", FOLDABLE.replace(" y", " z")),
    ],
    ids=["dimension", "input", "output"],
)
def test_refused_when_the_interface_changes(
    monkeypatch: pytest.MonkeyPatch, kind: str, renamed: str
) -> None:
    given = parse(FOLDABLE)
    monkeypatch.setattr(onnxsim, "simplify", lambda _: (parse(renamed), True))
    result, note = simplify.apply(given)
    assert result is given
    assert note == f"refused: onnxsim changed the {kind}"
