"""A recipe selects nodes of ONNX graphs and of traced programs, and must select something."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import onnx
import pytest

from effsam_export.errors import UsageError
from effsam_export.precision import select
from effsam_export.precision.select import (
    ModuleScope,
    fp32_nodes,
    fp32_program_nodes,
    matches,
    op_name,
)
from effsam_export.spec.model import KeepFp32

if TYPE_CHECKING:
    from pathlib import Path

    from torch.export import ExportedProgram


def keep(*modules: str, ops: tuple[str, ...] = ()) -> KeepFp32:
    """An entry for the decoder."""
    return KeepFp32(component="decoder", modules=modules, ops=ops, reason="r", source="s")


def node(
    name: str, takes: str, gives: str, *, path: tuple[str, ...] | None, op: str = "add.Tensor"
) -> onnx.NodeProto:
    """A node with the exporter's metadata, or without where `path` is None."""
    made = onnx.helper.make_node("Relu", takes.split(), gives.split(), name=name)
    if path is not None:
        for key, value in (
            (select.SCOPES, [*path, "fx_name"]),
            (select.CLASSES, [*path, f"aten.{op}"]),
        ):
            made.metadata_props.add(key=key, value=str(value))
    return made


def model(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """A model of these nodes; only names and metadata are looked at."""
    return onnx.ModelProto(graph=onnx.GraphProto(node=nodes))


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("aten.div.Tensor", "div"),
        ("aten._softmax.default", "softmax"),
        ("aten.softmax.int", "softmax"),
        ("aten.native_layer_norm.default", "layer_norm"),
        ("aten._native_batch_norm_legit_no_training.default", "batch_norm_legit_no_training"),
        ("add", "add"),
    ],
)
def test_an_operation_has_one_name_before_and_after_decomposition(target: str, name: str) -> None:
    assert op_name(target) == name


@pytest.mark.parametrize(
    ("patterns", "ops", "kept"),
    [
        (("a.b.norm",), (), True),
        (("a.b",), (), True),
        (("a.*.norm",), (), True),
        (("*",), (), True),
        (("a.b.n",), (), False),
        (("b.norm",), (), False),
        (("x", "a.b"), (), True),
        (("a.b",), ("div", "layer_norm"), True),
        (("a.b",), ("div",), False),
    ],
)
def test_a_rule_selects_by_enclosing_module_and_operator(
    patterns: tuple[str, ...], ops: tuple[str, ...], kept: bool
) -> None:
    place = ModuleScope(modules=("", "a", "a.b", "a.b.norm"), op="layer_norm")

    assert matches(keep(*patterns, ops=ops), place) is kept


@pytest.mark.parametrize(
    ("patterns", "kept"), [(("a.b.norm",), True), (("a.b",), False), (("",), False), (("*",), True)]
)
def test_a_rule_that_is_not_recursive_excludes_inner_modules(
    patterns: tuple[str, ...], kept: bool
) -> None:
    place = ModuleScope(modules=("", "a", "a.b", "a.b.norm"), op="layer_norm")

    assert matches(replace(keep(*patterns), recursive=False), place) is kept


def test_a_node_outside_all_modules_belongs_to_the_component() -> None:
    graph = model(
        node("own", "x", "y", path=("",)),
        node("made", "y", "z", path=(select.NOWHERE,)),
        node("inner", "z", "w", path=("", "a")),
    )

    assert fp32_nodes(graph, (replace(keep(""), recursive=False),)) == ("own", "made")
    assert fp32_nodes(graph, (keep(""),)) == ("own", "made", "inner")


def test_nodes_are_named_in_the_order_of_the_graph() -> None:
    graph = model(
        node("second", "x", "y", path=("", "b")),
        node("none", "y", "z", path=("", "c")),
        node("first", "z", "w", path=("", "a")),
    )

    assert fp32_nodes(graph, (keep("a"), keep("b"))) == ("second", "first")


def test_operations_narrow_a_module_down() -> None:
    graph = model(
        node("sum", "x", "y", path=("", "a")),
        node("quotient", "y", "z", path=("", "a"), op="div.Tensor"),
    )

    assert fp32_nodes(graph, (keep("a", ops=("div",)),)) == ("quotient",)


def test_a_module_called_twice_is_selected_both_times() -> None:
    graph = model(node("one", "x", "y", path=("", "a")), node("two", "y", "z", path=("", "a@1")))

    assert fp32_nodes(graph, (keep("a"),)) == ("one", "two")


def test_an_inserted_node_between_fp32_nodes_stays_in_fp32() -> None:
    graph = model(
        node("before", "x", "y", path=("", "a")),
        node("split", "y", "z1 z2", path=None),
        node("after", "z1", "w", path=("", "a")),
        node("other", "z2", "v", path=("", "b")),
    )

    assert fp32_nodes(graph, (keep("a"),)) == ("before", "split", "after")


def test_an_inserted_node_at_the_edge_of_a_region_is_not_selected() -> None:
    graph = model(
        node("before", "x", "y", path=("", "a")),
        node("split", "y", "z1 z2", path=None),
        node("other", "z1 z2", "v", path=("", "b")),
    )

    assert fp32_nodes(graph, (keep("a"),)) == ("before",)


def test_an_empty_recipe_selects_nothing() -> None:
    assert fp32_nodes(model(node("one", "x", "y", path=("", "a"))), ()) == ()


def test_every_entry_that_selects_nothing_is_named() -> None:
    graph = model(node("one", "x", "y", path=("", "a")))

    with pytest.raises(UsageError) as caught:
        fp32_nodes(graph, (keep("a"), keep("b", "c"), keep("a", ops=("div", "mul"))))

    assert caught.value.message == (
        "the FP16 recipe selects nothing in the graph by `b` and `c` of the decoder; "
        "`div` or `mul` in `a` of the decoder"
    )
    assert caught.value.hint == (
        "`effsam lint` prints the modules and operators of the exported model"
    )


def test_a_graph_whose_notes_are_stripped_cannot_be_selected_from() -> None:
    with pytest.raises(UsageError, match="selects nothing in the graph by `a` of the decoder"):
        fp32_nodes(model(node("one", "x", "y", path=None)), (keep("a"),))


@pytest.fixture(scope="module")
def program() -> ExportedProgram:
    """Two norms, one of them called twice, and a quotient outside of both."""
    import torch
    from torch import Tensor, nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.LayerNorm(4), nn.Sequential(nn.LayerNorm(4))])

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            out: Tensor = self.blocks[0](x) / 2
            return out

    return torch.export.export(Net().eval(), (torch.ones(2, 4),))


@pytest.mark.backend
@pytest.mark.parametrize(
    ("entry", "names"),
    [
        (keep("blocks.0"), {"layer_norm", "layer_norm_2"}),
        (keep("blocks.1"), {"layer_norm_1"}),
        (keep("blocks.*", ops=("layer_norm",)), {"layer_norm", "layer_norm_1", "layer_norm_2"}),
        (keep("*", ops=("div",)), {"div"}),
    ],
)
def test_a_program_is_selected_from_by_the_same_rule(
    program: ExportedProgram, entry: KeepFp32, names: set[str]
) -> None:
    assert fp32_program_nodes(program, (entry,)) == names


@pytest.mark.backend
def test_a_decomposed_program_gives_the_same_regions(program: ExportedProgram) -> None:
    with warnings.catch_warnings():
        # torch's own use of its own deprecated class.
        warnings.simplefilter("ignore", FutureWarning)
        decomposed = program.run_decompositions()

    chosen = fp32_program_nodes(decomposed, (keep("blocks.1", ops=("layer_norm",)),))

    assert chosen == {"native_layer_norm_1"}


@pytest.mark.backend
def test_a_program_without_the_module_is_an_error(program: ExportedProgram) -> None:
    with pytest.raises(UsageError, match=r"in the graph by `blocks\.2` of the decoder"):
        fp32_program_nodes(program, (keep("blocks.2"),))


@pytest.mark.backend
def test_the_exporters_own_metadata_is_understood(tmp_path: Path) -> None:
    from effsam_export.graph import trace
    from tests.small import SMALL_SAM

    decoder = SMALL_SAM.component("decoder")
    program = trace.trace(SMALL_SAM.build(), decoder)
    exported = onnx.load(trace.to_onnx(program, decoder, 18, tmp_path).path)
    chosen = fp32_nodes(exported, (keep("mask_decoder.output_upscaling.1"),))

    kinds = [n.op_type for n in exported.graph.node if n.name in chosen]
    # LayerNorm2d as it is written: two means, a variance, a root, a quotient, scale and shift.
    assert kinds.count("ReduceMean") == 2
    assert kinds.count("Sqrt") == 1
    assert kinds.count("Div") == 1
    assert not {"Conv", "ConvTranspose", "MatMul"} & set(kinds)
