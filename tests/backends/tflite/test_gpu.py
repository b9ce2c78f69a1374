"""Operators without support in the GPU delegate, and the alignment of ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("ai_edge_litert")
from ai_edge_litert.interpreter import Interpreter

from effsam_export.backends.tflite import file as tflite_file
from effsam_export.backends.tflite import gpu as tflite_gpu
from effsam_export.backends.tflite.session import quiet_runtime
from tests.backends.tflite.tools import BOOL, FLOAT32, INT32, HandMade, one_operator
from tests.graph.passes.tools import numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai_edge_litert import schema_py_generated as schema

pytestmark = pytest.mark.backend

Shape = tuple[int, ...]


def test_supported_operators_exist_in_the_schema() -> None:
    assert set(tflite_file.OPERATORS.values()) >= tflite_gpu.SUPPORTED


@pytest.mark.parametrize("kind", ["GATHER_ND", "BROADCAST_TO", "STABLEHLO_SORT", "BUCKETIZE"])
def test_unsupported_operators(kind: str) -> None:
    model = one_operator(kind, [(1, 8, 8, 4)], (8, 4))
    assert tflite_gpu.faults(model) == [
        f"not supported on the GPU: `{kind}` with output `out` of shape 8x4"
    ]


@pytest.mark.parametrize("kind", ["CONV_2D", "GELU", "BATCH_MATMUL", "SOFTMAX", "TOPK_V2", "MEAN"])
def test_supported_operators(kind: str) -> None:
    assert tflite_gpu.faults(one_operator(kind, [(1, 8, 8, 4)], (1, 8, 8, 4))) == []


TOGETHER: tuple[tuple[Shape, Shape], ...] = (
    ((1, 64, 64, 32), (1, 64, 64, 32)),
    ((1, 64, 64, 32), (1, 1, 1, 32)),
    ((1, 64, 64, 32), (32,)),
    ((1, 64, 64, 32), ()),
    ((1, 64, 64, 32), (64, 64, 32)),
    ((1, 64, 64, 32), (1, 1)),
    ((2, 64, 64, 32), (2, 32)),
    ((4096, 32), (32,)),
)
APART: tuple[tuple[Shape, Shape], ...] = (
    ((1, 4096, 256), (4096, 256)),
    ((2, 64, 64, 32), (64, 64, 32)),
    ((1, 64, 64, 32), (64, 32)),
)


@pytest.mark.parametrize("kind", ["ADD", "MUL"])
@pytest.mark.parametrize(("long", "short"), TOGETHER)
def test_operands_that_broadcast(kind: str, long: Shape, short: Shape) -> None:
    for shapes in ((long, short), (short, long)):
        assert tflite_gpu.faults(one_operator(kind, shapes, long)) == []


@pytest.mark.parametrize(("long", "short"), APART)
def test_operands_that_do_not_broadcast(long: Shape, short: Shape) -> None:
    first, second = ("x".join(map(str, s)) for s in (long, short))
    assert tflite_gpu.faults(one_operator("ADD", (long, short), long)) == [
        f"cannot broadcast {first} and {second} on the GPU: "
        f"`ADD` with output `out` of shape {first}"
    ]
    # A subtraction is not held to that rule by the delegate.
    assert tflite_gpu.faults(one_operator("SUB", (long, short), long)) == []


@pytest.mark.parametrize("shape", [(8,), (4, 8)])
def test_slices_of_three_or_four_dimensions(shape: Shape) -> None:
    text = "x".join(map(str, shape))
    assert tflite_gpu.faults(one_operator("SLICE", [shape, (2,), (2,)], shape)) == [
        f"cannot slice rank {len(shape)} on the GPU: `SLICE` with output `out` of shape {text}"
    ]
    for fine in ((1, *shape), (1, 1, *shape))[2 - len(shape) :]:
        if len(fine) in (3, 4):
            assert tflite_gpu.faults(one_operator("SLICE", [fine, (3,), (3,)], fine)) == []


@pytest.mark.parametrize(("kind", "rank"), [("PAD", 2), ("PADV2", 5), ("PAD", 3), ("PADV2", 4)])
def test_pads_of_three_or_four_dimensions(kind: str, rank: int) -> None:
    shape = (1,) * rank
    found = tflite_gpu.faults(one_operator(kind, [shape, (rank, 2)], shape))
    text = "x".join("1" * rank)
    fault = f"cannot pad rank {rank} on the GPU: `{kind}` with output `out` of shape {text}"
    assert found == ([] if rank in (3, 4) else [fault])


@pytest.mark.parametrize(
    ("dtypes", "fault"),
    [
        ((BOOL, FLOAT32), None),
        ((INT32, FLOAT32), None),
        ((FLOAT32, BOOL), None),
        ((BOOL, INT32), "cannot cast bool to int32 on the GPU"),
    ],
)
def test_casts(dtypes: tuple[int, int], fault: str | None) -> None:
    found = tflite_gpu.faults(one_operator("CAST", [(1, 8)], (1, 8), dtypes=dtypes))
    assert found == ([] if fault is None else [f"{fault}: `CAST` with output `out` of shape 1x8"])


# ------------------------------------------------------------------ ranks made equal


def adder(shapes: Sequence[Shape], *, constant: bool) -> schema.ModelT:
    """A file that adds two tensors, the second of which may be a constant."""
    made = HandMade()
    first = made.tensor("first", shapes[0])
    second = made.tensor("second", shapes[1], value=numbers(*shapes[1]) if constant else None)
    out = made.tensor("sum", max(shapes, key=len))
    made.operator("ADD", [first, second], out)
    made.signature("decoder", [first] if constant else [first, second], [out])
    return made.model


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    "shapes", [((1, 6, 4), (6, 4)), ((6, 4), (1, 6, 4)), ((2, 3, 4, 5), (3, 4, 5))]
)
def test_ranks_are_made_equal_and_numbers_stay(shapes: tuple[Shape, Shape], constant: bool) -> None:
    model = adder(shapes, constant=constant)
    assert len(tflite_gpu.faults(model)) == 1
    tflite_gpu.align_ranks(model)
    content = tflite_file.serialise(model)
    aligned = tflite_file.parse(content)
    assert tflite_gpu.faults(aligned) == []
    assert tflite_file.count_operators(aligned) == {"ADD": 1, "RESHAPE": 1}
    values = {"first": numbers(*shapes[0]), "second": numbers(*shapes[1])}
    given = {"first": values["first"]} if constant else values
    with quiet_runtime():
        runner = Interpreter(model_content=content).get_signature_runner("decoder")
        found = np.array(runner(**given)["sum"])
    np.testing.assert_array_equal(found, values["first"] + values["second"])


def test_operands_that_broadcast_are_not_changed() -> None:
    model = adder(((1, 6, 4), (1, 1, 4)), constant=True)
    before = tflite_file.serialise(model)
    tflite_gpu.align_ranks(model)
    assert tflite_file.serialise(model) == before


def test_a_second_call_changes_nothing() -> None:
    model = adder(((1, 6, 4), (6, 4)), constant=False)
    tflite_gpu.align_ranks(model)
    before = tflite_file.serialise(model)
    tflite_gpu.align_ranks(model)
    assert tflite_file.serialise(model) == before
