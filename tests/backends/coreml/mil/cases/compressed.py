"""Cases of compressed weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

from tests.backends.coreml.mil.cases.case import Case

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.backends.coreml.mil.cases.case import Var

DATA = np.random.default_rng(0).integers(-128, 128, (3, 4, 5)).astype(np.int8)
SCALE = np.array([0.5, 0.25, 2.0])
ZERO = np.array([3, -4, 0], np.int8)
LUT = np.array([-2.0, -0.5, 0.25, 7.0])
INDICES = np.random.default_rng(1).integers(0, 4, 12).astype(np.uint8)
NIBBLES = np.random.default_rng(2).integers(-8, 8, (4, 6)).astype(np.int8)
BLOCKS = np.array([[0.5, 0.25, 1.0], [2.0, 4.0, 0.125]])
OFFSETS = np.array([[1, -1, 2], [0, 3, -8]], np.int8)
MASK = np.array([0, 1, 1, 0, 0, 0, 1, 0, 1, 0], bool)
VALUES = np.array([1.5, -2.0, 0.25, 8.0])


def stored(
    kind: str, title: str, constant: Callable[[type], Var], expect: np.ndarray[Any, Any], opset: str
) -> Case:
    """Return `x + constant`, so that the constant is unpacked to the dtype of `x`."""
    return Case(
        kind=kind,
        title=title,
        shapes=((1,),),
        build=lambda t, x: mb.add(x=x, y=constant(t)),
        expect=lambda x: x + expect,
        opset=opset,
        # The weights are exact in FP16; the sum is rounded once.
    )


def _bits(values: np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    """Pack values lowest bits first, with Python integers."""
    total = sum(int(value) << (bits * place) for place, value in enumerate(values))
    return np.frombuffer(total.to_bytes(-(-len(values) * bits // 8), "little"), np.uint8)


def _sub_byte(values: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    return values.astype(types.nptype_from_builtin(types.string_to_builtin(name)))


def _spread(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return values.repeat(2, 0).repeat(2, 1).astype(np.float64)


def _vectors(t: type) -> Var:
    return mb.constexpr_lut_to_dense(
        indices=_sub_byte(INDICES.reshape(3, 4) % 2, "uint1"),
        lut=np.arange(6).reshape(1, 1, 2, 3).astype(t),
        vector_axis=np.int32(-1),
    )


def _quantized(t: type, x: Var) -> Var:
    places = mb.quantize(
        input=x, scale=SCALE.astype(t), zero_point=ZERO, axis=0, output_dtype="int8"
    )
    return mb.cast(x=places, dtype="int32")


CASES = (
    stored(
        "constexpr_affine_dequantize",
        "per channel",
        lambda t: mb.constexpr_affine_dequantize(
            quantized_data=DATA, scale=SCALE.astype(t), zero_point=ZERO, axis=np.int32(0)
        ),
        (DATA - ZERO.astype(float).reshape(3, 1, 1)) * SCALE.reshape(3, 1, 1),
        "iOS16",
    ),
    stored(
        "constexpr_affine_dequantize",
        "whole",
        lambda t: mb.constexpr_affine_dequantize(
            quantized_data=DATA, scale=t(0.5), zero_point=np.int8(3), axis=np.int32(0)
        ),
        (DATA.astype(float) - 3) * 0.5,
        "iOS17",
    ),
    stored(
        "constexpr_lut_to_dense",
        "packed",
        lambda t: mb.constexpr_lut_to_dense(
            indices=_bits(INDICES, 2), lut=LUT.astype(t), shape=np.array([3, 4], np.uint32)
        ),
        LUT[INDICES].reshape(3, 4),
        "iOS16",
    ),
    stored(
        "constexpr_lut_to_dense",
        "of several tables",
        lambda t: mb.constexpr_lut_to_dense(
            indices=_sub_byte(INDICES.reshape(4, 3), "uint2"),
            lut=np.stack((LUT, -LUT)).reshape(2, 1, 4, 1).astype(t),
        ),
        np.concatenate((LUT[INDICES[:6]], -LUT[INDICES[6:]])).reshape(4, 3),
        "iOS18",
    ),
    stored(
        "constexpr_lut_to_dense",
        "of vectors",
        _vectors,
        np.arange(6).reshape(2, 3)[INDICES.reshape(3, 4) % 2].reshape(3, 12),
        "iOS18",
    ),
    stored(
        "constexpr_sparse_to_dense",
        "packed",
        lambda t: mb.constexpr_sparse_to_dense(
            nonzero_data=VALUES.astype(t), mask=_bits(MASK, 1), shape=np.array([2, 5], np.uint32)
        ),
        np.array([[0, 1.5, -2.0, 0, 0], [0, 0.25, 0, 8.0, 0]]),
        "iOS16",
    ),
    stored(
        "constexpr_sparse_to_dense",
        "by a mask",
        lambda t: mb.constexpr_sparse_to_dense(
            nonzero_data=VALUES.astype(t), mask=_sub_byte(MASK.reshape(2, 5), "uint1")
        ),
        np.array([[0, 1.5, -2.0, 0, 0], [0, 0.25, 0, 8.0, 0]]),
        "iOS18",
    ),
    stored(
        "constexpr_blockwise_shift_scale",
        "",
        lambda t: mb.constexpr_blockwise_shift_scale(
            data=_sub_byte(NIBBLES, "int4"),
            scale=BLOCKS.astype(t),
            offset=_sub_byte(OFFSETS, "int4"),
        ),
        (NIBBLES - _spread(OFFSETS)) * _spread(BLOCKS),
        "iOS18",
    ),
    Case(
        kind="constexpr_cast",
        shapes=((1,),),
        build=lambda t, x: mb.add(
            x=x,
            y=mb.constexpr_cast(
                source_val=np.linspace(0, 1, 12).astype(np.float16), output_dtype="fp32"
            ),
        ),
        expect=lambda x: x + np.linspace(0, 1, 12).astype(np.float16),
        dtypes=("float32",),
        opset="iOS16",
    ),
    Case(
        kind="quantize",
        shapes=((3, 4),),
        build=_quantized,
        expect=lambda x: np.clip(
            np.round(x / SCALE.reshape(3, 1)) + ZERO.reshape(3, 1), -128, 127
        ).astype(np.int64),
        make=lambda rng, shape: rng.integers(-100, 100, shape) + 0.0625,
    ),
    Case(
        kind="dequantize",
        shapes=((3, 4),),
        build=lambda t, x: mb.dequantize(
            input=mb.cast(x=x, dtype="int8"), scale=SCALE.astype(t), zero_point=ZERO, axis=0
        ),
        expect=lambda x: (np.trunc(x) - ZERO.reshape(3, 1)) * SCALE.reshape(3, 1),
        make=lambda rng, shape: rng.integers(-100, 100, shape).astype(np.float64),
    ),
)
