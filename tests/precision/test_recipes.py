"""The precision recipes of the models: each entry says why, and selects what it means to."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from effsam_export import models
from effsam_export.precision.select import fp32_nodes, fp32_program_nodes

if TYPE_CHECKING:
    from pathlib import Path

    from torch.export import ExportedProgram

RECIPES = {name: models.get(name).precision for name in models.names()}
WITH_RECIPE = [name for name, recipe in RECIPES.items() if recipe]


def test_which_models_have_a_recipe() -> None:
    families = {name.rstrip("0123456789").rpartition("-")[0] for name in WITH_RECIPE}

    assert families == {"sam-vit", "slim-sam", "efficientvit-sam", "expedit-sam-vit"}


@pytest.mark.parametrize("name", WITH_RECIPE)
def test_a_rule_has_a_reason_and_a_source(name: str) -> None:
    for entry in RECIPES[name]:
        assert entry.component in {c.name for c in models.get(name).components}
        for text in (entry.reason, entry.source):
            assert text
            assert not text.endswith(".")


def traced(name: str) -> ExportedProgram:
    """The encoder of a model, without weights."""
    pytest.importorskip("torch")
    from effsam_export.graph import trace

    spec = models.get(name)
    return trace.trace(spec.build(), spec.component("encoder"))


@pytest.mark.backend
@pytest.mark.parametrize(
    ("name", "ops"),
    [
        ("sam-vit-b", {"layer_norm": 24}),
        ("slim-sam-77", {"layer_norm": 24}),
        ("efficientvit-sam-l0", {"div": 4, "matmul": 8, "relu": 8, "pad": 4, "eq": 4}),
        ("expedit-sam-vit-b", {"layer_norm": 24, "div": 6, "softmax": 5, "topk": 1, "exp": 1}),
    ],
)
def test_a_recipe_selects_from_the_export_form(name: str, ops: dict[str, int]) -> None:
    from effsam_export.precision.select import op_name

    program = traced(name)
    chosen = fp32_program_nodes(program, RECIPES[name])

    found = Counter(op_name(str(n.target)) for n in program.graph.nodes if n.name in chosen)
    assert {op: found[op] for op in ops} == ops
    assert not {"conv2d", "linear"} & set(found)


@pytest.mark.backend
def test_a_recipe_selects_from_the_exported_graph(tmp_path: Path) -> None:
    import onnx

    from effsam_export.graph import trace

    spec = models.get("efficientvit-sam-l0")
    encoder = spec.component("encoder")
    path = trace.to_onnx(traced(spec.name), encoder, 18, tmp_path).path
    graph = onnx.load(path).graph
    chosen = fp32_nodes(onnx.load(path), spec.precision)

    found = Counter(n.op_type for n in graph.node if n.name in chosen)
    assert (found["MatMul"], found["Div"], found["Relu"]) == (8, 4, 8)
    assert "Conv" not in found
