"""The passes as a pipeline: their order, their notes, and what the written file may not hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("onnx_ir")
import onnx

from effsam_export.graph import passes, trace
from effsam_export.spec.stages import Graph
from tests.graph.passes.tools import interface, numbers, parse, run
from tests.paths import REPOSITORY
from tests.tiny import TINY_SAM, build

if TYPE_CHECKING:
    from effsam_export.spec.targets import TargetProfile

pytestmark = pytest.mark.backend

TWINS = """
twins (float[n, 2] x) => (float[n, 2] y)
<float[2] a = {1, 2}, float[2] b = {1, 2}>
{
  p = Add(x, a)
  y = Add(p, b)
}
"""


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    model = parse(TWINS)
    model.graph.node[0].doc_string = str(tmp_path)
    onnx.save(model, tmp_path / "traced.onnx")
    return Graph(component=TINY_SAM.component("encoder"), path=tmp_path / "traced.onnx", opset=18)


@pytest.mark.parametrize(
    ("simplify", "names"),
    [
        (False, ["share_constants", "regroup_gelu", "strip_debug_info"]),
        (True, ["share_constants", "regroup_gelu", "simplify", "strip_debug_info"]),
    ],
    ids=["plain", "simplified"],
)
def test_order(onnx_target: TargetProfile, simplify: bool, names: list[str]) -> None:
    target = replace(onnx_target, simplify=simplify)
    assert [name for name, _ in passes.pipeline(target)] == names


def test_notes_and_file(graph: Graph, onnx_target: TargetProfile, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    result = passes.rewrite(graph, onnx_target, out)
    assert result == replace(graph, path=out / "encoder.onnx", rewrites=result.rewrites)
    assert [n.partition(": ")[0] for n in result.rewrites] == [
        "share_constants",
        "regroup_gelu",
        "strip_debug_info",
    ]
    assert result.rewrites[0] == "share_constants: 2 to 1 constants"
    given, rewritten = onnx.load(graph.path), onnx.load(result.path)
    assert interface(rewritten) == interface(given)
    x = numbers(3, 2)
    np.testing.assert_array_equal(run(rewritten, x=x), run(given, x=x))


def test_traced_file_does_not_change(
    graph: Graph, onnx_target: TargetProfile, tmp_path: Path
) -> None:
    before = graph.path.read_bytes()
    (tmp_path / "out").mkdir()
    passes.rewrite(graph, onnx_target, tmp_path / "out")
    assert graph.path.read_bytes() == before


def test_no_path_of_this_machine_is_in_the_file(onnx_target: TargetProfile, tmp_path: Path) -> None:
    component = TINY_SAM.component("encoder")
    traced = trace.to_onnx(trace.trace(build(), component), component, 18, tmp_path)
    places = [p.encode() for p in (str(REPOSITORY), str(Path(onnx.__file__).parent))]
    assert any(p in traced.path.read_bytes() for p in places), "the exporter notes none any more"
    out = tmp_path / "out"
    out.mkdir()
    rewritten = passes.rewrite(traced, onnx_target, out).path.read_bytes()
    assert not any(p in rewritten for p in places)
    assert b".py" not in rewritten
