"""A defect in a package is an error or changes the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("coremltools")

from effsam_export.backends.coreml.mil import read
from effsam_export.errors import BundleError, CheckFailed, UsageError
from tests.backends.coreml.mil import breaking
from tests.backends.coreml.mil.building import quiet, run, save

with quiet():
    from coremltools.converters.mil import Builder as mb

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.backends.coreml.mil.package import Proto
    from tests.backends.coreml.mil.cases.case import Var

pytestmark = pytest.mark.backend

X = np.random.default_rng(0).standard_normal((1, 3, 6, 6)).astype(np.float32)
WEIGHT = np.random.default_rng(1).standard_normal((3, 3, 3, 3)).astype(np.float32)


def network(x: Var) -> Var:
    kept = mb.conv(x=x, weight=WEIGHT, pad_type="custom", pad=(1, 1, 1, 1))
    weights = mb.softmax(x=kept, axis=-1)
    return mb.concat(values=(mb.relu(x=kept), weights), axis=1)


def gross(broken: np.ndarray[Any, Any], sound: np.ndarray[Any, Any]) -> bool:
    """Return whether a result is not finite or differs by more than its magnitude."""
    finite = bool(np.isfinite(broken).all())
    return not finite or bool(np.abs(broken - sound).max() > 1e3 * np.abs(sound).max())


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return save(tmp_path / "sound.mlpackage", [(X.shape, "float32")], network)


def test_unchanged_package_passes(package: Path) -> None:
    (found,) = run(package, X)
    assert found.shape == (1, 6, 6, 6)
    np.testing.assert_allclose(found[:, 3:].sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize("element", [0, 40, 80])
def test_one_changed_bit_of_a_weight_changes_the_result(package: Path, element: int) -> None:
    offset = breaking.RECORD_BYTES * 2 + element * 4
    (sound,) = run(package, X)
    # The top bit of the exponent: little-endian, so in the last of the four bytes.
    (broken,) = run(breaking.flipped(package, offset + 3), X)
    assert gross(broken, sound)


def test_a_changed_axis_changes_the_result(package: Path) -> None:
    def change(spec: Proto) -> None:
        value = breaking.literal(spec, "softmax", "axis")
        value.immediateValue.tensor.ints.values[0] = 1

    (sound,), (broken,) = run(package, X), run(breaking.edited(package, change), X)
    np.testing.assert_array_equal(broken[:, :3], sound[:, :3])
    assert np.abs(broken - sound).max() > 0.1


def test_an_axis_that_changes_the_shape_is_an_error(package: Path) -> None:
    def change(spec: Proto) -> None:
        value = breaking.literal(spec, "concat", "axis")
        value.immediateValue.tensor.ints.values[0] = 2

    with pytest.raises(CheckFailed) as raised:
        run(breaking.edited(package, change), X)
    assert raised.value.message == (
        "the `concat` with output `concat_0` computes float32 [1, 3, 12, 6] for `concat_0`, "
        "but the file declares float32 [1, 6, 6, 6]"
    )


def test_an_axis_out_of_range_is_an_error(package: Path) -> None:
    def change(spec: Proto) -> None:
        value = breaking.literal(spec, "softmax", "axis")
        value.immediateValue.tensor.ints.values[0] = 4

    with pytest.raises(UsageError) as raised:
        run(breaking.edited(package, change), X)
    assert raised.value.message == (
        "the `softmax` with output `softmax_0` has `axis` 4, but its operand has 4 axes"
    )


def test_another_declared_dtype_is_an_error(package: Path) -> None:
    def change(spec: Proto) -> None:
        breaking.operation(spec, "relu").outputs[0].type.tensorType.dataType = 10

    with pytest.raises(CheckFailed) as raised:
        run(breaking.edited(package, change), X)
    assert raised.value.message == (
        "the `relu` with output `relu_0` computes float32 [1, 3, 6, 6] for `relu_0`, "
        "but the file declares float16 [1, 3, 6, 6]"
    )


def test_a_replaced_op_changes_the_result(package: Path) -> None:
    def change(spec: Proto) -> None:
        breaking.operation(spec, "relu").type = "abs"

    (sound,), (broken,) = run(package, X), run(breaking.edited(package, change), X)
    assert np.abs(broken - sound).max() > 0.1


def test_a_truncated_weight_file_is_an_error(package: Path) -> None:
    size = breaking.weights(package).stat().st_size
    with pytest.raises(BundleError) as raised:
        read.load(breaking.shortened(package, 4))
    assert raised.value.message == (
        f"`weight.bin` at offset 64 is truncated: the file has {size - 4} bytes"
    )


def test_a_missing_weight_file_is_an_error(package: Path) -> None:
    breaking.weights(package).unlink()
    with pytest.raises(BundleError, match=r"^`weight\.bin` of the package cannot be read: "):
        read.load(package)


def test_another_offset_is_an_error(package: Path) -> None:
    def change(spec: Proto) -> None:
        breaking.literal(spec, "conv", "weight").blobFileValue.offset = 128

    with pytest.raises(BundleError) as raised:
        read.load(breaking.edited(package, change))
    assert raised.value.message == "`weight.bin` at offset 128 has no record of a constant"


def test_a_file_outside_the_package_is_an_error(package: Path) -> None:
    def change(spec: Proto) -> None:
        value = breaking.literal(spec, "conv", "weight")
        value.blobFileValue.fileName = "@model_path/../../weight.bin"

    with pytest.raises(BundleError) as raised:
        read.load(breaking.edited(package, change))
    assert raised.value.message == (
        "a constant is in `@model_path/../../weight.bin`, outside the package"
    )
