"""The evaluator's feeds and errors, and the arithmetic of `rounding.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("coremltools")

from effsam_export.backends.coreml.mil import evaluate, read
from effsam_export.errors import UsageError
from tests.backends.coreml.mil import breaking
from tests.backends.coreml.mil.building import quiet, run, save

with quiet():
    from coremltools.converters.mil import Builder as mb

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    from effsam_export.backends.coreml.mil.package import Proto
    from tests.backends.coreml.mil.cases.case import Var

    Array = np.ndarray[Any, Any]

pytestmark = pytest.mark.backend

PAIR = [((2, 3), "float32"), ((3,), "int32")]


def half(*values: float) -> Array:
    return np.array([values], np.float16)


def evaluated(path: Path, x: Array, build: Callable[[Var], Var], **how: bool) -> Array:
    package = save(path / "one.mlpackage", [(x.shape, x.dtype.name)], build)
    return run(package, x, **how)[0]


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    return save(
        tmp_path / "pair.mlpackage", PAIR, lambda x, i: mb.add(x=x, y=mb.cast(x=i, dtype="fp32"))
    )


def test_outputs_have_the_names_of_the_description(pair: Path) -> None:
    feeds = {"in0": np.ones((2, 3), np.float32), "in1": np.arange(3, dtype=np.int32)}
    found = evaluate.run(read.load(pair), feeds)
    assert list(found) == ["out0"]
    np.testing.assert_array_equal(found["out0"], [[1, 2, 3], [1, 2, 3]])


def test_inputs_and_results_can_be_watched(pair: Path) -> None:
    feeds = {"in0": np.ones((2, 3), np.float32), "in1": np.arange(3, dtype=np.int32)}
    seen = {}

    def watch(name: str, value: torch.Tensor) -> None:
        seen[name] = value.numpy().copy()

    program = read.load(pair)
    found = evaluate.run(program, feeds, watch=watch)
    # In the program's order, and no constant of it.
    assert list(seen) == ["in0", "in1", "cast_0", "add_0", "out0"]
    np.testing.assert_array_equal(seen["cast_0"], [0, 1, 2])
    np.testing.assert_array_equal(seen["out0"], found["out0"])
    np.testing.assert_array_equal(seen["out0"], evaluate.run(program, feeds)["out0"])


def test_feeds_are_not_changed(tmp_path: Path) -> None:
    x = half(-1, 2)
    evaluated(tmp_path, x, lambda x: mb.relu(x=x))
    np.testing.assert_array_equal(x, half(-1, 2))


def test_feeds_of_other_names_are_refused(pair: Path) -> None:
    with pytest.raises(UsageError) as raised:
        evaluate.run(read.load(pair), {"in0": np.ones((2, 3), np.float32)})
    assert raised.value.message == "the program takes ['in0', 'in1'], but the feeds are ['in0']"


def test_every_feed_of_a_wrong_type_is_named(pair: Path) -> None:
    feeds = {"in0": np.ones((2, 4), np.float32), "in1": np.arange(3)}
    with pytest.raises(UsageError) as raised:
        evaluate.run(read.load(pair), feeds)
    assert raised.value.message == (
        "`in0` is float32 [2, 4], expected float32 [2, 3]; `in1` is int64 [3], expected int32 [3]"
    )


def test_an_unknown_op_is_named_with_its_output(tmp_path: Path) -> None:
    package = save(
        tmp_path / "one.mlpackage", [((2, 3), "float32")], lambda x: mb.band_part(x=x, lower=0)
    )
    with pytest.raises(UsageError) as raised:
        run(package, np.ones((2, 3), np.float32))
    assert raised.value.message == (
        "the program has unsupported ops: `band_part` "
        "(first the `band_part` with output `band_part_0`)"
    )


def test_an_unknown_parameter_is_refused(pair: Path) -> None:
    def change(spec: Proto) -> None:
        add = breaking.operation(spec, "add")
        add.inputs["alpha"].CopyFrom(add.inputs["x"])

    with pytest.raises(UsageError) as raised:
        run(breaking.edited(pair, change), np.ones((2, 3), np.float32), np.arange(3, dtype="int32"))
    assert raised.value.message == (
        "the `add` with output `add_0` has unsupported parameters: `alpha`"
    )


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    package = save(
        tmp_path / "one.mlpackage",
        [((2, 3), "float32")],
        lambda x: mb.gelu(x=x, mode="TANH_APPROXIMATION"),
    )

    def change(spec: Proto) -> None:
        value = breaking.literal(spec, "gelu", "mode")
        value.immediateValue.tensor.strings.values[0] = "ERF"

    with pytest.raises(UsageError) as raised:
        run(breaking.edited(package, change), np.ones((2, 3), np.float32))
    assert raised.value.message == (
        "the `gelu` with output `gelu_0` has `mode` `ERF`, "
        "supported: EXACT, TANH_APPROXIMATION, SIGMOID_APPROXIMATION"
    )


def test_operands_of_two_dtypes_are_refused(pair: Path) -> None:
    def change(spec: Proto) -> None:
        # The cast's operand instead of its result.
        breaking.operation(spec, "add").inputs["y"].arguments[0].name = "in1"

    with pytest.raises(UsageError) as raised:
        run(breaking.edited(pair, change), np.ones((2, 3), np.float32), np.arange(3, dtype="int32"))
    assert raised.value.message == (
        "the `add` with output `add_0` has operands of two dtypes: `y` is int32, expected float32"
    )


def test_incompatible_operands_are_refused(tmp_path: Path) -> None:
    package = save(
        tmp_path / "one.mlpackage", [((2, 3), "float32")], lambda x: mb.reshape(x=x, shape=(3, 2))
    )

    def change(spec: Proto) -> None:
        value = breaking.literal(spec, "reshape", "shape")
        value.immediateValue.tensor.ints.values[0] = 4

    with pytest.raises(UsageError, match=r"^the `reshape` with output `reshape_0` cannot be eval"):
        run(breaking.edited(package, change), np.ones((2, 3), np.float32))


REFUSED: tuple[tuple[str, Callable[[Var], Var], str], ...] = (
    (
        "ceil mode",
        lambda x: mb.max_pool(
            x=x, kernel_sizes=(2, 2), strides=(2, 2), pad_type="valid", ceil_mode=True
        ),
        "the `max_pool` with output `max_pool_0` has `ceil_mode`, which is not supported",
    ),
    (
        "fractional nearest",
        lambda x: mb.resize_nearest_neighbor(x=x, target_size_height=7, target_size_width=5),
        "the `resize_nearest_neighbor` with output `resize_nearest_neighbor_0` resizes [5, 5] to "
        "[7, 5], which is not an integer factor",
    ),
    (
        "unsorted",
        lambda x: mb.topk(x=x, k=2, axis=-1, sort=False)[0],
        "the `topk` with output `topk_0_0`, `topk_0_1` has an undefined order of values "
        "(`sort` is false)",
    ),
    (
        "reversed sum",
        lambda x: mb.cumsum(x=x, axis=-1, reverse=True),
        "the `cumsum` with output `cumsum_0` is exclusive or reversed, which is not supported",
    ),
    (
        "batched gather",
        lambda x: mb.gather(x=x, indices=np.zeros((1, 2), np.int32), axis=1, batch_dims=1),
        "the `gather` with output `gather_0` has `batch_dims`, which is not supported",
    ),
    (
        "summed scatter",
        lambda x: mb.scatter_along_axis(
            data=x,
            indices=np.zeros((1, 3, 5, 1), np.int32),
            updates=np.zeros((1, 3, 5, 1), np.float32),
            axis=-1,
            mode="add",
        ),
        "the `scatter_along_axis` with output `scatter_along_axis_0` has `mode` `add`, "
        "supported: update",
    ),
    (
        "same transposed",
        lambda x: mb.conv_transpose(
            x=x, weight=np.ones((3, 3, 2, 2), np.float32), pad_type="same", strides=(2, 2)
        ),
        "the `conv_transpose` with output `conv_transpose_0` has the padding "
        "`same`, whose alignment is not documented",
    ),
)


@pytest.mark.parametrize(
    ("build", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_unsupported_parameters_are_refused(
    build: Callable[[Var], Var], message: str, tmp_path: Path
) -> None:
    package = save(tmp_path / "one.mlpackage", [((1, 3, 5, 5), "float32")], build)
    with pytest.raises(UsageError) as raised:
        run(package, np.ones((1, 3, 5, 5), np.float32))
    assert raised.value.message == message


def test_an_index_outside_an_axis_is_refused(tmp_path: Path) -> None:
    package = save(
        tmp_path / "one.mlpackage",
        [((2, 3), "float32"), ((2,), "int32")],
        lambda x, i: mb.gather(x=x, indices=i, axis=1),
    )
    with pytest.raises(UsageError) as raised:
        run(package, np.ones((2, 3), np.float32), np.array([0, 3], np.int32))
    assert raised.value.message == (
        "the `gather` with output `gather_0` has indices outside an axis of 3"
    )


# ------------------------------------------------------------------ arithmetic


def test_fp16_results_over_65504_become_infinite(tmp_path: Path) -> None:
    found = evaluated(tmp_path, half(200, 255, 256, -300), lambda x: mb.mul(x=x, y=x))
    np.testing.assert_array_equal(found, half(40000, 65024, np.inf, np.inf))


def test_an_infinite_intermediate_value_reaches_the_output(tmp_path: Path) -> None:
    found = evaluated(
        tmp_path, half(10, 300), lambda x: mb.sub(x=mb.mul(x=x, y=x), y=mb.mul(x=x, y=x))
    )
    np.testing.assert_array_equal(found, half(0, np.nan))


def test_fp32_results_over_65504_stay_finite(tmp_path: Path) -> None:
    x = np.array([[300, 1e6]], np.float32)
    found = evaluated(tmp_path, x, lambda x: mb.mul(x=x, y=x))
    np.testing.assert_array_equal(found, np.array([[9e4, 1e12]], np.float32))


def test_a_product_accumulates_in_fp32_and_rounds_once(tmp_path: Path) -> None:
    # 2048 + 1 is not an FP16 number: added one by one in FP16, the ones would be lost.
    x = np.ones((1, 5), np.float16)
    weight = np.array([[2048, 1, 1, 1, 1]], np.float16)
    found = evaluated(tmp_path, x, lambda x: mb.linear(x=x, weight=weight))
    np.testing.assert_array_equal(found, half(2052))


def test_a_sum_accumulates_in_fp32(tmp_path: Path) -> None:
    x = np.full((1, 4096), 1, np.float16)
    found = evaluated(tmp_path, x, lambda x: mb.reduce_sum(x=x, axes=(1,), keep_dims=True))
    np.testing.assert_array_equal(found, half(4096))


def test_the_sum_of_a_mean_may_exceed_fp16(tmp_path: Path) -> None:
    x = np.full((1, 4), 60000, np.float16)
    found = evaluated(tmp_path, x, lambda x: mb.reduce_mean(x=x, axes=(1,), keep_dims=True))
    np.testing.assert_array_equal(found, half(60000))


def normalised(x: Var) -> Var:
    return mb.layer_norm(x=x, axes=(-1,))


def test_pessimistic_layer_norm_of_large_fp16_values_overflows(tmp_path: Path) -> None:
    x = half(-400, 400)
    # The squares are infinite, so that everything is divided by infinity.
    np.testing.assert_array_equal(evaluated(tmp_path, x, normalised), half(0, 0))


def test_optimistic_layer_norm_does_not_overflow(tmp_path: Path) -> None:
    found = evaluated(tmp_path, half(-400, 400), normalised, pessimistic=False)
    np.testing.assert_array_equal(found, half(-1, 1))


def test_pessimistic_rounding_does_not_change_fp32(tmp_path: Path) -> None:
    x = np.array([[-400, 400]], np.float32)
    np.testing.assert_allclose(evaluated(tmp_path, x, normalised), [[-1, 1]], rtol=1e-6)


def test_an_epsilon_below_the_smallest_fp16_is_zero(tmp_path: Path) -> None:
    # The constant itself is stored as FP16: 1e-8 rounds to nothing, and 0 * inf is no number.
    found = evaluated(
        tmp_path, half(1, 1), lambda x: mb.layer_norm(x=x, axes=(-1,), epsilon=np.float16(1e-8))
    )
    assert np.isnan(found).all()


def test_softmax_in_slices_equals_softmax_of_each_row(tmp_path: Path) -> None:
    # More than one slice of 65536 elements, along an axis that is not the last.
    x = np.random.default_rng(0).standard_normal((300, 500)).astype(np.float16)
    found = evaluated(tmp_path, x, lambda x: mb.softmax(x=x, axis=0))
    powers = np.exp(x.astype(np.float64))
    np.testing.assert_allclose(found, powers / powers.sum(0), rtol=2**-8, atol=1e-6)
