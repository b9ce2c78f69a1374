"""Given names of source files and inferred shapes; Result: the same graph without."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")
import onnx

from effsam_export.graph.passes import strip_debug_info
from tests.graph.passes.tools import numbers, parse, run

pytestmark = pytest.mark.backend

PLAIN = """
plain (float[n, 2] x) => (float[n, 2] y)
<float[2] a = {1, 2}>
{
  p = Add(x, a)
  y = Relu(p)
}
"""
SECRET = "/home/someone/model.py"


def with_notes() -> onnx.ModelProto:
    """The plain graph with a note at everything that can carry one."""
    model = onnx.shape_inference.infer_shapes(parse(PLAIN))
    graph = model.graph
    holders = [model, graph, graph.node[0], graph.initializer[0], graph.input[0], graph.output[0]]
    for holder in [*holders, graph.value_info[0]]:
        holder.doc_string = SECRET
        holder.metadata_props.add(key="stack", value=SECRET)
    return model


def test_notes_are_removed() -> None:
    given = with_notes()
    before = given.SerializeToString()
    result, note = strip_debug_info.apply(given)
    assert note == "removed 13 notes"
    assert SECRET.encode() not in result.SerializeToString()
    assert not result.graph.value_info
    assert given.SerializeToString() == before


def test_graph_stays_the_same() -> None:
    result, _ = strip_debug_info.apply(with_notes())
    assert result == parse(PLAIN)
    x = numbers(3, 2)
    np.testing.assert_array_equal(run(result, x=x), run(with_notes(), x=x))


def test_nothing_to_remove() -> None:
    given = parse(PLAIN)
    result, note = strip_debug_info.apply(given)
    assert note == "nothing to remove"
    assert result.SerializeToString() == given.SerializeToString()
