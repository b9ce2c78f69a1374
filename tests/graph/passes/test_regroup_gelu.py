"""Given ``x * (0.5 * (1 + erf(x / sqrt(2))))``; Result: ``(x * (1 + erf(...))) * 0.5``."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx_ir")
import onnxruntime

from effsam_export.graph.passes import regroup_gelu
from tests.graph.passes.tools import interface, numbers, parse, run

pytestmark = pytest.mark.backend

GELU = """
gelu (float[n, 3] x) => (float[n, 3] y)
<float root = {1.41421356}, float one = {1.0}, float half = {0.5}>
{
  d = Div(x, root)
  e = Erf(d)
  a = Add(e, one)
  h = Mul(half, a)
  y = Mul(x, h)
}
"""


@pytest.mark.parametrize(
    "text",
    [
        GELU,
        GELU.replace("Mul(x, h)", "Mul(h, x)"),
        GELU.replace("Mul(half, a)", "Mul(a, half)"),
        GELU.replace("Add(e, one)", "Add(one, e)"),
    ],
    ids=["as exported", "x last", "half last", "one first"],
)
def test_every_order_of_factors_is_regrouped(text: str) -> None:
    given = parse(text)
    before = given.SerializeToString()
    result, note = regroup_gelu.apply(given)
    assert note == "1 regrouped"
    assert given.SerializeToString() == before
    assert interface(result) == interface(given)
    inner, outer = result.graph.node[-2:]
    assert list(inner.input) == ["x", "a"]
    assert list(outer.input) == ["h", "half"]
    x = numbers(4, 3) * 3
    np.testing.assert_array_equal(run(result, x=x), run(given, x=x))


def fused(model_bytes: bytes, path: str) -> bool:
    """Whether ONNX Runtime makes one Gelu of it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = path
    options.log_severity_level = 4
    onnxruntime.InferenceSession(
        model_bytes, sess_options=options, providers=["CPUExecutionProvider"]
    )
    import onnx

    return [n.op_type for n in onnx.load(path).graph.node] == ["Gelu"]


def test_onnx_runtime_fuses_the_result_and_not_the_given(tmp_path: object) -> None:
    given = parse(GELU)
    result, _ = regroup_gelu.apply(given)
    assert fused(result.SerializeToString(), f"{tmp_path}/result.onnx")
    # If this one fuses too, the pass has become superfluous.
    assert not fused(given.SerializeToString(), f"{tmp_path}/given.onnx")


@pytest.mark.parametrize(
    "text",
    [
        GELU.replace("half = {0.5}", "half = {0.25}"),
        GELU.replace("one = {1.0}", "one = {2.0}"),
        GELU.replace("root = {1.41421356}", "root = {1.0}"),
        GELU.replace("Erf(d)", "Tanh(d)"),
        GELU.replace("Div(x, root)", "Div(root, x)"),
        GELU.replace("y = Mul(x, h)", "z = Neg(x)\n  y = Mul(z, h)"),
        GELU.replace("float half = {0.5}", "float[3] half = {0.5, 0.5, 0.5}"),
    ],
    ids=["quarter", "two", "no root", "tanh", "turned round", "another x", "a vector"],
)
def test_other_expressions_are_not_changed(text: str) -> None:
    given = parse(text)
    result, note = regroup_gelu.apply(given)
    assert note == "no GELU of this form"
    assert [(n.op_type, n.input, n.output) for n in result.graph.node] == [
        (n.op_type, n.input, n.output) for n in given.graph.node
    ]


def test_refused_where_the_half_is_used_elsewhere() -> None:
    given = parse(
        GELU.replace("(float[n, 3] y)", "(float[n, 3] y, float[n, 3] z)").replace(
            "y = Mul(x, h)", "y = Mul(x, h)\n  z = Neg(h)"
        )
    )
    result, note = regroup_gelu.apply(given)
    assert note == "no GELU of this form; refused 1: half of it is used elsewhere"
    x = numbers(2, 3)
    for a, b in zip(run(result, x=x), run(given, x=x), strict=True):
        np.testing.assert_array_equal(a, b)


def test_refused_where_the_half_is_an_output() -> None:
    given = parse(GELU.replace("(float[n, 3] y)", "(float[n, 3] y, float[n, 3] h)"))
    result, note = regroup_gelu.apply(given)
    assert "refused 1" in note
    x = numbers(2, 3)
    for a, b in zip(run(result, x=x), run(given, x=x), strict=True):
        np.testing.assert_array_equal(a, b)
