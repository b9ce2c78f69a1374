"""Each op of a saved package against an independent formula in float64."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("coremltools")

from tests.backends.coreml.mil.building import quiet

with quiet():
    from tests.backends.coreml.mil.cases import (
        compressed,
        convolutions,
        elementwise,
        numeric,
        shapes,
    )

from effsam_export.backends.coreml.mil import read
from effsam_export.backends.coreml.mil.ops import OPS
from tests.backends.coreml.mil.building import run, save
from tests.backends.coreml.mil.cases.case import HALF_STEP, Case

if TYPE_CHECKING:
    from pathlib import Path

    from tests.backends.coreml.mil.cases.case import Var

    Array = np.ndarray[Any, Any]

pytestmark = pytest.mark.backend

CASES: tuple[Case, ...] = (
    *elementwise.CASES,
    *shapes.CASES,
    *convolutions.CASES,
    *numeric.CASES,
    *compressed.CASES,
)

SINGLE = 1e-5


def operands(case: Case, dtype: str) -> list[Array]:
    rng = np.random.default_rng(zlib.crc32(f"{case} {dtype}".encode()))
    return [case.make(rng, shape).astype(dtype) for shape in case.shapes]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_op_equals_its_formula(case: Case, tmp_path: Path) -> None:
    fed = {dtype: operands(case, dtype) for dtype in case.dtypes}

    def build(*given: Var) -> list[Any]:
        """The op once for every dtype, in one program."""
        found: list[Any] = []
        for index, dtype in enumerate(case.dtypes):
            count = len(case.shapes)
            result = case.build(np.dtype(dtype).type, *given[index * count : (index + 1) * count])
            found += result if isinstance(result, (list, tuple)) else [result]
        return found

    inputs = [(value.shape, dtype) for dtype, values in fed.items() for value in values]
    package = save(tmp_path / "op.mlpackage", inputs, build, case.opset)
    assert read.count_ops(read.load(package))[case.kind] >= len(case.dtypes)

    results = iter(run(package, *(value for values in fed.values() for value in values)))
    for dtype, values in fed.items():
        exact = [v.astype(np.float64 if v.dtype.kind == "f" else np.int64) for v in values]
        wanted = case.expect(*exact)
        for want in wanted if isinstance(wanted, tuple) else (wanted,):
            check(case, dtype, next(results), want)
    assert next(results, None) is None


def check(case: Case, dtype: str, found: Array, want: Array) -> None:
    assert found.shape == want.shape
    assert np.abs(want).max() > 0
    if found.dtype.kind != "f":
        np.testing.assert_array_equal(found, want)
        return
    relative, minimum = (case.half, 2.0**-25) if dtype == "float16" else (SINGLE, 0.0)
    # One rounding is relative to each value, or half of FP16's least step; several, and sums
    # that cancel, are relative to the largest.
    summed = relative if relative not in (0.0, HALF_STEP) else 0.0
    absolute = max(minimum, summed * float(np.abs(want).max()))
    np.testing.assert_allclose(found.astype(np.float64), want, rtol=relative, atol=absolute)


def test_the_cases_cover_exactly_the_ops_of_the_table() -> None:
    assert {case.kind for case in CASES} == set(OPS)


def test_case_names_are_unique() -> None:
    names = [str(case) for case in CASES]
    assert len(set(names)) == len(names)
