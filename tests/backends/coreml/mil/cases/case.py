"""A test case: an op, its operands, and an independent formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

Var = Any
"""A variable of coremltools' builder, which has no types."""

Parameter = Any
"""A parameter of an op in coremltools' builder."""

Make = Callable[[np.random.Generator, tuple[int, ...]], "Array"]
"""Shape -> values of an operand."""

HALF_STEP = 2.0**-11
"""Relative error of one FP16 rounding."""


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.standard_normal(shape)


def positive(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.uniform(0.5, 3.0, shape)


def inside(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.uniform(-0.9, 0.9, shape)


def whole(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Small integers of both signs, with many equal ones."""
    return rng.integers(-3, 4, shape).astype(np.float64)


def natural(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.integers(1, 5, shape).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Attributes:
    kind: Of the op that is tested.
    title: What is special, for the test's name.
    shapes: Of the operands that are fed.
    build: `build(t, *vars)`, with the numpy type that constants have to have.
    expect: The same of float64 arrays (int64 for integers).
    make: Values of the operands.
    dtypes: In which the op is tried.
    half: Relative error allowed of an FP16 result; FP32 may be off by 1e-5.
    """

    kind: str
    title: str = ""
    shapes: tuple[tuple[int, ...], ...]
    build: Callable[..., Var]
    expect: Callable[..., Any]
    make: Make = normal
    dtypes: tuple[str, ...] = ("float32", "float16")
    half: float = HALF_STEP
    opset: str = "iOS17"

    def __str__(self) -> str:
        return f"{self.kind} {self.title}".strip().replace(" ", "-")
