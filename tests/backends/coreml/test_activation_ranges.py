"""Ranges of a program's values over samples, against numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

pytest.importorskip("coremltools")

from effsam_export.backends.coreml import activation_ranges
from effsam_export.backends.coreml.mil import read
from effsam_export.errors import CheckFailed, UsageError
from tests.backends.coreml.mil.building import quiet, save

with quiet():
    from coremltools.converters.mil import Builder as mb

if TYPE_CHECKING:
    from effsam_export.backends.coreml.mil.program import Program
    from effsam_export.spec.int8 import Method
    from tests.backends.coreml.mil.cases.case import Array

pytestmark = pytest.mark.backend

SHAPE = (40, 500)
METHODS: tuple[Method, ...] = ("minmax", "percentile", "mse")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """A program whose `out0` is three times `in0`."""
    path = tmp_path_factory.mktemp("program") / "one.mlpackage"
    return read.load(save(path, [(SHAPE, "float32")], lambda x: mb.mul(x=x, y=np.float32(3))))


def samples(count: int, seed: int = 0) -> list[Array]:
    """Samples of increasing range; the first has the minimum of all."""
    rng = np.random.default_rng(seed)
    found = [rng.standard_normal(SHAPE).astype(np.float32) * (1 + i) for i in range(count)]
    found[0][3, 4] = -50
    return found


def measured(
    program: Program, values: list[Array], method: Method = "minmax", name: str = "out0"
) -> tuple[float, float]:
    feeds = [{"in0": value} for value in values]
    return activation_ranges.measure(program, [name], lambda: feeds, method)[name]


def test_minmax_over_all_samples(program: Program) -> None:
    values = samples(3)
    # coremltools' own calibration would forget the first sample.
    assert measured(program, values) == (-150.0, float(np.max(values) * np.float32(3)))


def test_inputs_have_a_range_too(program: Program) -> None:
    values = samples(2)
    assert measured(program, values, name="in0") == (-50.0, float(np.max(values)))


def test_the_order_of_samples_does_not_matter(program: Program) -> None:
    values = samples(3)
    for method in METHODS:
        assert measured(program, values, method) == pytest.approx(
            measured(program, values[::-1], method)
        )


@pytest.mark.parametrize("count", [1, 10])
def test_a_percentile_cuts_off_its_share_at_each_end(program: Program, count: int) -> None:
    values = samples(count)
    low, high = measured(program, values, "percentile")
    every = np.sort(np.concatenate([v.ravel() for v in values]) * np.float32(3))
    # 1e-5 of 200000 values are two, and of 20000 not even one.
    out = {1: 0, 10: 2}[count]
    assert (low, high) == (every[out], every[-1 - out])


def test_a_range_includes_zero(program: Program) -> None:
    ones = np.ones(SHAPE, np.float32)
    assert measured(program, [ones, ones * 2]) == (0.0, 6.0)
    assert measured(program, [-ones], "percentile") == (-3.0, 0.0)


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_zeros_has_a_scale(program: Program, method: Method) -> None:
    low, high = measured(program, [np.zeros(SHAPE, np.float32)], method)
    assert low == 0.0
    assert np.float16((high - low) / 255) == 2**-18


def test_mse_cuts_off_an_outlier(program: Program) -> None:
    values = samples(1)
    low, high = measured(program, values, "mse")
    largest = float(np.max(values[0]) * 3)
    assert -150 < low < -20
    assert high / largest == pytest.approx(low / -150, rel=1e-4)


def test_mse_has_the_minimum_error_of_its_shares(program: Program) -> None:
    values = samples(2, seed=5)
    chosen = measured(program, values, "mse")
    every = torch.from_numpy(np.concatenate([v.ravel() for v in values]) * np.float32(3))
    low, high = measured(program, values)

    def error(share: float) -> float:
        back = activation_ranges.rounded(every, low * share, high * share)
        return float((back - every).double().square().sum())

    best = min(activation_ranges.SHARES, key=error)
    assert chosen == pytest.approx((low * best, high * best))


def test_values_are_rounded_as_int8_is() -> None:
    values = np.linspace(-1, 3, 100, dtype=np.float32)
    found = activation_ranges.rounded(torch.from_numpy(values), -0.5, 2.05).numpy()
    scale = 2.55 / 255
    zero = round(-128 + 0.5 / scale)
    places = np.clip(np.round(values.astype(np.float64) / scale) + zero, -128, 127)
    np.testing.assert_allclose(found, (places - zero) * scale, atol=scale * 0.51)
    assert np.abs(found - np.clip(values, -0.5, 2.05)).max() < scale * 0.51
    assert not activation_ranges.rounded(torch.from_numpy(values), 0.0, 0.0).any()


def test_samples_are_required(program: Program) -> None:
    with pytest.raises(UsageError, match="INT8 activations need calibration samples"):
        measured(program, [])


def test_a_missing_value_is_named(program: Program) -> None:
    with pytest.raises(CheckFailed) as raised:
        measured(program, samples(1), name="gone")
    assert raised.value.message == "the program does not compute `gone`, whose range is needed"


@pytest.mark.parametrize("method", METHODS)
def test_values_that_are_not_finite_are_refused(program: Program, method: Method) -> None:
    values = samples(1)
    values[0][0, 0] = np.inf
    with pytest.raises(CheckFailed, match="`out0` is not finite on a calibration sample"):
        measured(program, values, method)


def test_a_range_that_coremltools_would_overflow_is_refused(program: Program) -> None:
    values = samples(1)
    values[0][0, 0] = 200
    with pytest.raises(UsageError) as raised:
        measured(program, values)
    assert raised.value.message == (
        "`out0` ranges from -150 to 600, and coremltools quantizes at most -500 to 500"
    )
