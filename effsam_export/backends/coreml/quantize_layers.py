"""Find the layers of a saved ML program and the treatment that an INT8 recipe gives each.

An operation is matched to the modules that its FX node was called in. `precision.py` explains how
coremltools links an operation to the FX node.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from effsam_export.backends.coreml.mil.program import Constant
from effsam_export.errors import CheckFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from effsam_export.backends.coreml.mil.program import Operation, Program
    from effsam_export.precision.select import ModuleScope
    from effsam_export.spec.int8 import Int8Recipe, Treatment
    from effsam_export.spec.tensors import Array

KINDS = ("conv", "conv_transpose", "linear")
"""MIL operations with a weight that a recipe treats as layers."""
CALLS = (
    "conv1d",
    "conv2d",
    "convolution",
    "conv_transpose1d",
    "conv_transpose2d",
    "linear",
    "addmm",
)
"""The PyTorch operations of layers, by the names of `precision.select.op_name`.

A product with a constant matrix (as in the positional encoding) is not a layer, although
coremltools may convert it to `linear`.
"""
INT8_PRODUCTS = ("conv", "linear")
"""Operations of `KINDS` whose inputs coremltools can quantize; `conv_transpose` is not one."""

TABLE = "add"
"""An `add` before a softmax: its constant is a table of attention biases and is quantized too.

The program stores the table at the full size of the attention scores.
"""
MIN_TABLE_ELEMENTS = 2048
"""Number of elements up to which coremltools does not quantize a constant by default."""
MIN_WEIGHT_ELEMENTS = 10
"""Minimum elements of a weight that coremltools stores in the weight file and can quantize."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One operation with a weight.

    Attributes:
        operation: Name of the operation, which coremltools' configurations refer to.
        kind: One of `KINDS`, or `TABLE`.
        weight: Name of the constant.
        elements: Number of elements of the weight.
        input_name: Name of the input value.
        treatment: How the recipe stores and computes it; a table has weight-only INT8 at most.
    """

    operation: str
    kind: str
    weight: str
    elements: int
    input_name: str
    treatment: Treatment

    @property
    def in_int8(self) -> bool:
        """Whether the inputs of its product are INT8 too."""
        return self.treatment == "w8a8" and self.kind in INT8_PRODUCTS


def find_layers(
    program: Program, nodes_by_output: Mapping[str, Sequence[ModuleScope]], recipe: Int8Recipe
) -> tuple[Layer, ...]:
    """Return the layers of a program, in order, with their treatments.

    Layers that share a weight all stay in floating point if one of them does.

    Args:
        program: The saved program in floating point.
        nodes_by_output: First output of an operation -> the FX nodes that it was made from.
        recipe: The INT8 recipe.

    Raises:
        CheckFailed: coremltools recorded no FX node for an operation with a weight.
    """
    stored = {op.outputs[0].name: op for op in program.operations if op.kind == "const"}
    to_softmax = {_name(op, "x") for op in program.operations if op.kind == "softmax"}
    found, lost = [], []
    calls: tuple[str, ...]
    for op in program.operations:
        if op.kind in KINDS:
            weight, calls = stored.get(_name(op, "weight")), CALLS
        elif op.kind == TABLE and op.outputs[0].name in to_softmax:
            weight, calls = _table(op, stored), (TABLE,)
        else:
            continue
        if weight is None:
            continue
        nodes = nodes_by_output.get(op.outputs[0].name, ())
        if not nodes:
            lost.append(str(op))
        call = next((place for place in nodes if place.op in calls), None)
        if call is not None:
            found.append(_layer(op, weight, recipe.treatment(call.modules)))
    if lost:
        raise CheckFailed(f"coremltools recorded no source node for the {lost[0]}")
    return _one_treatment_per_weight(found)


def _table(op: Operation, stored: Mapping[str, Operation]) -> Operation | None:
    """Return the constant of a sum if it is a table of finite values for several heads."""
    for parameter in ("x", "y"):
        const = stored.get(_name(op, parameter))
        if const is None:
            continue
        value = _data(const)
        if value.ndim >= 3 and value.size > MIN_TABLE_ELEMENTS and np.isfinite(value).all():
            return const
    return None


def _layer(op: Operation, weight: Operation, treatment: Treatment) -> Layer:
    return Layer(
        operation=op.name,
        kind=op.kind,
        weight=weight.name,
        elements=_data(weight).size,
        input_name=_name(op, "x"),
        treatment="weight_only" if op.kind == TABLE and treatment == "w8a8" else treatment,
    )


def _name(op: Operation, parameter: str) -> str:
    """Return the name of the value that a parameter reads, or "" for an inline constant."""
    bound = op.inputs[parameter][0]
    return bound if isinstance(bound, str) else ""


def _data(const: Operation) -> Array:
    value = const.inputs["val"][0]
    assert isinstance(value, Constant)
    assert not isinstance(value.data, str)
    return value.data


def _one_treatment_per_weight(found: Sequence[Layer]) -> tuple[Layer, ...]:
    """Give layers that share a weight one treatment, and keep weights too small for coremltools."""
    floating = {
        y.weight for y in found if y.treatment == "keep_float" or y.elements < MIN_WEIGHT_ELEMENTS
    }
    return tuple(
        replace(layer, treatment="keep_float") if layer.weight in floating else layer
        for layer in found
    )
