"""The records of a .tflite file: reading, counting, checking, FP16, merging and writing."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("ai_edge_litert")
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from effsam_export.backends.tflite import file as tflite_file
from effsam_export.backends.tflite import merge as tflite_merge
from effsam_export.backends.tflite.session import quiet_runtime
from tests.backends.tflite.tools import BOOL, INT32, HandMade, component, one_operator
from tests.graph.passes.tools import Array, numbers

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.model import ComponentSpec
    from effsam_export.spec.tensors import Feeds

pytestmark = pytest.mark.backend

TABLE = numbers(4, 8)
SPEC = component({"image": (4, 8)}, {"sum": (4, 8)})


def adder(table: Array = TABLE, key: str = "decoder") -> schema.ModelT:
    """A file that adds a constant: `image` to `sum`."""
    made = HandMade()
    image = made.tensor("image", table.shape)
    constant = made.tensor("table", table.shape, value=table)
    out = made.tensor("sum", table.shape)
    made.operator("ADD", [image, constant], out)
    made.signature(key, [image], [out])
    return made.model


def run(content: bytes, key: str, feeds: Feeds) -> Feeds:
    """Return the outputs of a file in LiteRT."""
    with quiet_runtime():
        runner = Interpreter(model_content=content).get_signature_runner(key)
        return {name: np.array(value) for name, value in runner(**feeds).items()}


def test_a_written_file_reads_back_equal(tmp_path: Path) -> None:
    path = tmp_path / "a.tflite"
    path.write_bytes(tflite_file.serialise(adder()))
    model = tflite_file.read(path)
    assert tflite_file.count_operators(model) == {"ADD": 1}
    assert tflite_file.count_constants(model) == {"float32": 32}
    assert tflite_file.bytes_of_constants(model) == 128
    assert tflite_file.signature_faults(model, "decoder", SPEC.inputs, SPEC.outputs) == []
    feeds = {"image": numbers(4, 8)}
    np.testing.assert_array_equal(
        run(path.read_bytes(), "decoder", feeds)["sum"], feeds["image"] + TABLE
    )


def test_equal_records_give_equal_bytes() -> None:
    assert tflite_file.serialise(adder()) == tflite_file.serialise(adder())


@pytest.mark.parametrize("length", [1, 3, 5, 8, 17])
def test_constants_are_aligned(length: int) -> None:
    table = numbers(1, length)
    content = tflite_file.serialise(adder(table))
    assert content.count(table.tobytes()) == 1
    # Counted from the start of the file, where the runtime maps it.
    assert content.index(table.tobytes()) % 16 == 0


def test_constants_are_counted_by_dtype_and_shared_ones_once() -> None:
    made = HandMade()
    first = made.tensor("a", (3, 2), value=numbers(3, 2))
    second = made.tensor("b", (6,), value=numbers(6))
    made.graph.tensors[second].buffer = made.graph.tensors[first].buffer
    made.tensor("axes", (2,), INT32, np.array([0, 1], np.int32))
    made.tensor("flag", (), BOOL, np.array([True]))
    made.tensor("result", (7, 7))
    assert tflite_file.count_constants(made.model) == {"bool": 1, "float32": 6, "int32": 2}


def test_a_type_without_a_name_is_counted_by_its_number() -> None:
    made = HandMade()
    made.tensor("text", (3,), schema.TensorType.STRING, np.zeros(3, np.int8))
    assert tflite_file.count_constants(made.model) == {f"type {schema.TensorType.STRING}": 3}


# ------------------------------------------------------------------ signatures


def test_outputs_come_in_the_graphs_order() -> None:
    made = HandMade()
    image = made.tensor("image", (2,))
    outs = [made.tensor(name, (2,)) for name in ("masks", "iou", "all")]
    for out in outs:
        made.operator("ABS", [image], out)
    made.signature("decoder", [image], outs)
    assert tflite_file.signature_outputs(made.model, "decoder") == ("masks", "iou", "all")


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        (
            component({"picture": (4, 8)}, {"sum": (4, 8)}),
            "inputs are [('image', (4, 8), 'float32')], expected [('picture', (4, 8), 'float32')]",
        ),
        (
            component({"image": (4, 8)}, {"sum": (8, 4)}),
            "outputs are [('sum', (4, 8), 'float32')], expected [('sum', (8, 4), 'float32')]",
        ),
        (
            component({"image": (4, 8)}, {"sum": (4, 8), "iou": (1,)}),
            "outputs are [('sum', (4, 8), 'float32')], expected "
            "[('iou', (1,), 'float32'), ('sum', (4, 8), 'float32')]",
        ),
    ],
)
def test_broken_contract(spec: ComponentSpec, fault: str) -> None:
    found = tflite_file.signature_faults(adder(), "decoder", spec.inputs, spec.outputs)
    assert found == [fault]


def test_missing_signature() -> None:
    found = tflite_file.signature_faults(adder(), "encoder", SPEC.inputs, SPEC.outputs)
    assert found == ["there is no signature `encoder`"]


# ------------------------------------------------------------------ limits


def test_no_faults_without_limits() -> None:
    model = one_operator("RESHAPE", [(1, 2, 3, 4, 5)], (120,))
    assert tflite_file.limit_faults(model, None, ()) == []


def test_rank_of_inputs_and_outputs() -> None:
    model = one_operator("TRANSPOSE", [(1, 2, 3, 4, 5)], (1, 2, 3, 4, 5, 6))
    assert tflite_file.limit_faults(model, 4, ()) == [
        "rank 5 at TRANSPOSE: `in0` of shape 1x2x3x4x5",
        "rank 6 at TRANSPOSE: `out` of shape 1x2x3x4x5x6",
    ]
    assert len(tflite_file.limit_faults(model, 5, ())) == 1
    assert tflite_file.limit_faults(model, 6, ()) == []


def test_omitted_inputs_have_no_rank() -> None:
    model = one_operator("CONV_2D", [(1, 8, 8, 3), (4, 3, 3, 3)], (1, 8, 8, 4))
    model.subgraphs[0].operators[0].inputs.append(-1)
    assert tflite_file.limit_faults(model, 4, ()) == []


def test_forbidden_operator() -> None:
    model = one_operator("GELU", [(1, 8)], (1, 8))
    assert tflite_file.limit_faults(model, None, ("SOFTMAX", "GELU")) == [
        "forbidden `GELU` with output `out` of shape 1x8"
    ]
    assert tflite_file.limit_faults(model, None, ("SOFTMAX",)) == []


@pytest.mark.parametrize("custom", ["FlexTopKV2", "aten::roll"])
def test_custom_operators_are_always_refused(custom: str) -> None:
    model = one_operator("CUSTOM", [(1, 8)], (), custom=custom)
    assert tflite_file.limit_faults(model, None, ()) == [
        f"custom operator `CUSTOM {custom}` with output `out` of shape ()"
    ]
    assert tflite_file.count_operators(model) == {f"CUSTOM {custom}": 1}


# ------------------------------------------------------------------ FP16


def test_fp16_constants_are_read_through_a_dequantize() -> None:
    model = adder()
    tflite_file.store_constants_in_fp16(model)
    content = tflite_file.serialise(model)
    again = tflite_file.parse(content)
    assert tflite_file.count_constants(again) == {"float16": 32}
    assert tflite_file.count_operators(again) == {"ADD": 1, "DEQUANTIZE": 1}
    assert [code.version for code in again.operatorCodes] == [1, 3]
    feeds = {"image": np.zeros((4, 8), np.float32)}
    half = TABLE.astype(np.float16).astype(np.float32)
    assert not np.array_equal(half, TABLE)
    np.testing.assert_array_equal(run(content, "decoder", feeds)["sum"], half)


def test_fp16_halves_the_file() -> None:
    table = numbers(64, 64)
    model = adder(table)
    whole = len(tflite_file.serialise(model))
    tflite_file.store_constants_in_fp16(model)
    assert whole - len(tflite_file.serialise(model)) > 0.45 * table.nbytes


def test_a_shared_constant_is_stored_in_fp16_once() -> None:
    made = HandMade()
    image = made.tensor("image", (8,))
    constant = made.tensor("table", (8,), value=numbers(8))
    twin = made.tensor("twin", (8,))
    made.graph.tensors[twin].buffer = made.graph.tensors[constant].buffer
    first, out = made.tensor("first", (8,)), made.tensor("sum", (8,))
    made.operator("ADD", [image, constant], first)
    made.operator("ADD", [first, twin], out)
    made.signature("decoder", [image], [out])
    tflite_file.store_constants_in_fp16(made.model)
    content = tflite_file.serialise(made.model)
    assert tflite_file.count_constants(tflite_file.parse(content)) == {"float16": 8}
    feeds = {"image": np.zeros(8, np.float32)}
    half = numbers(8).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(run(content, "decoder", feeds)["sum"], half + half)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (np.array([1e-12], np.float32), "float32"),  # a scalar
        (np.array([1, 65504], np.float32), "float16"),
        (np.array([1, 65520], np.float32), "float32"),  # would be infinite
        (np.array([1, -1e5], np.float32), "float32"),
        (np.array([1, np.nan], np.float32), "float32"),
        (np.array([1, 2], np.int32), "int32"),
    ],
)
def test_constants_that_overflow_fp16_stay_fp32(value: Array, dtype: str) -> None:
    made = HandMade()
    made.tensor("c", value.shape, {"i": INT32}.get(value.dtype.kind, 0), value)
    tflite_file.store_constants_in_fp16(made.model)
    assert tflite_file.count_constants(made.model) == {dtype: value.size}


# ------------------------------------------------------------------ merging


def test_merged_files_give_the_same_outputs() -> None:
    tables = {"encoder": numbers(2, 3), "decoder": numbers(5, 1) * 3}
    whole = tflite_merge.merge([adder(t, key) for key, t in tables.items()])
    content = tflite_file.serialise(whole)
    model = tflite_file.parse(content)
    assert [g.name for g in model.subgraphs] == [b"encoder", b"decoder"]
    assert tflite_file.count_operators(model) == {"ADD": 2}
    assert len(model.operatorCodes) == 1
    for key, table in tables.items():
        found = run(content, key, {"image": np.ones(table.shape, np.float32)})
        np.testing.assert_array_equal(found["sum"], 1 + table)


def test_merged_files_keep_their_fp16_and_their_operators() -> None:
    first, second = adder(key="encoder"), adder(numbers(2, 2), "decoder")
    tflite_file.store_constants_in_fp16(first)
    tflite_file.store_constants_in_fp16(second)
    second.operatorCodes.reverse()
    for operator in second.subgraphs[0].operators:
        operator.opcodeIndex = 1 - operator.opcodeIndex
    content = tflite_file.serialise(tflite_merge.merge([first, second]))
    model = tflite_file.parse(content)
    assert tflite_file.count_constants(model) == {"float16": 36}
    assert tflite_file.count_operators(model) == {"ADD": 2, "DEQUANTIZE": 2}
    found = run(content, "decoder", {"image": np.zeros((2, 2), np.float32)})
    np.testing.assert_array_equal(found["sum"], numbers(2, 2).astype(np.float16))


def test_the_identifier_is_where_the_runtime_looks() -> None:
    content = tflite_file.serialise(adder())
    assert content[4:8] == b"TFL3"
    assert struct.unpack_from("<I", content)[0] < len(content)
