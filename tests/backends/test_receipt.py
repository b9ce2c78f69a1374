"""The precision of the file must be that of the target."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from effsam_export.backends.receipt import check_precision
from effsam_export.errors import CheckFailed

if TYPE_CHECKING:
    from effsam_export.spec.targets import Precision


@pytest.mark.parametrize(
    ("precision", "counts"),
    [
        ("fp32", {"float32": 100}),
        ("fp32", {"float32": 1, "int64": 1000}),
        ("fp16", {"float16": 99, "float32": 1}),
        ("fp16", {"float16": 100, "int32": 5, "bool": 1}),
        ("bf16", {"bfloat16": 100, "int32": 5}),
    ],
    ids=["pure", "whole numbers do not count", "a scalar may stay", "fp16", "bf16"],
)
def test_right_precision_passes(precision: Precision, counts: dict[str, int]) -> None:
    check_precision("encoder", precision, counts)


@pytest.mark.parametrize(
    ("precision", "counts", "found"),
    [
        ("fp16", {"float32": 100}, "100 float32 (0.00% float16, minimum 99%)"),
        ("fp32", {"float16": 100}, "100 float16 (0.00% float32, minimum 99%)"),
        (
            "fp16",
            {"float16": 98, "float32": 2},
            "98 float16, 2 float32 (98.00% float16, minimum 99%)",
        ),
        (
            "fp16",
            {"bfloat16": 100, "int64": 3},
            "100 bfloat16 (0.00% float16, minimum 99%)",
        ),
        ("fp32", {"int8": 100}, "no floating-point constants (0.00% float32, minimum 99%)"),
        ("fp32", {}, "no floating-point constants (0.00% float32, minimum 99%)"),
    ],
    ids=["still fp32", "already fp16", "too much left", "bfloat16", "quantised", "nothing"],
)
def test_wrong_precision_is_refused(
    precision: Precision, counts: dict[str, int], found: str
) -> None:
    with pytest.raises(CheckFailed) as caught:
        check_precision("encoder", precision, counts)
    assert (
        caught.value.message == f"encoder: the precision is {precision}, but the file holds {found}"
    )


@pytest.mark.parametrize(
    ("counts", "kept"),
    [
        ({"float16": 99, "float32": 201}, 200),
        ({"float16": 99, "float32": 1}, 200),
        ({"float16": 1, "float32": 0}, 5),
    ],
    ids=["what is kept does not count", "less than was allowed", "none at all"],
)
def test_fp32_constants_of_a_recipe_are_left_out(counts: dict[str, int], kept: int) -> None:
    check_precision("encoder", "fp16", counts, fp32_by_recipe=kept)


@pytest.mark.parametrize(
    ("precision", "counts", "kept", "found"),
    [
        (
            "fp16",
            {"float16": 98, "float32": 202},
            200,
            "98 float16, 202 float32 (98.00% float16, minimum 99%)",
        ),
        ("fp16", {"float32": 200}, 200, "200 float32 (0.00% float16, minimum 99%)"),
        (
            "fp32",
            {"float16": 100, "float32": 100},
            100,
            "100 float16, 100 float32 (50.00% float32, minimum 99%)",
        ),
    ],
    ids=["too much beside it", "nothing beside it", "a recipe is of no use in fp32"],
)
def test_fp32_constants_beyond_a_recipe_are_refused(
    precision: Precision, counts: dict[str, int], kept: int, found: str
) -> None:
    with pytest.raises(CheckFailed) as caught:
        check_precision("encoder", precision, counts, fp32_by_recipe=kept)
    assert (
        caught.value.message == f"encoder: the precision is {precision}, but the file holds {found}"
    )
