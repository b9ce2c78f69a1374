"""The weights of a saved ML program, and what an INT8 recipe makes of each.

coremltools carries the number of an FX node, its `debug_handle`, to the operations that came of it
(see `backends/coreml_precision.py`). So an operation is sorted by the modules its node was called
in, and not by a name that coremltools made up.
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
"""MIL's operations that have a weight and are sorted by a recipe."""
CALLS = (
    "conv1d",
    "conv2d",
    "convolution",
    "conv_transpose1d",
    "conv_transpose2d",
    "linear",
    "addmm",
)
"""Torch's, by the names of `precision.select.op_name`. A product with a constant matrix, as of the
positional encoding, is no layer, though coremltools may write `linear` for it."""
INT8_PRODUCTS = ("conv", "linear")
"""Those of `KINDS` whose inputs coremltools quantizes; it leaves a `conv_transpose` alone."""

TABLE = "add"
"""Its constant is a weight too where the sum goes to a softmax: a table of attention biases, which
stands in the program as large as the attention itself (a sixth of TinyViT's constants)."""
LEAST_TABLE = 2048
"""Elements of a constant that coremltools leaves alone unless it is told otherwise."""
FEWEST = 10
"""Elements of the smallest weight that coremltools writes to the weight file, and so quantizes."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One operation with a weight.

    Attributes:
        operation: Its own name, by which coremltools' configurations find it.
        kind: One of `KINDS`, or `TABLE`.
        weight: Name of the constant.
        elements: Of the weight.
        fed: Name of the value that goes in.
        treatment: What becomes of it; a table is never a product, so `weight_only` at most.
    """

    operation: str
    kind: str
    weight: str
    elements: int
    fed: str
    treatment: Treatment

    @property
    def in_int8(self) -> bool:
        """Whether its product is computed in INT8."""
        return self.treatment == "w8a8" and self.kind in INT8_PRODUCTS


def layers(
    program: Program, places: Mapping[str, Sequence[ModuleScope]], recipe: Int8Recipe
) -> tuple[Layer, ...]:
    """Every layer of a program, in its order, with its treatment.

    Weights that several layers share are stored once: if one of them stays floating, so do all.

    Args:
        program: In floating point, as it was saved.
        places: Operation by its first output -> the FX nodes it came of.
        recipe: What is asked.

    Raises:
        CheckFailed: coremltools has not noted where an operation with a weight came from.
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
        came_of = places.get(op.outputs[0].name, ())
        if not came_of:
            lost.append(str(op))
        call = next((place for place in came_of if place.op in calls), None)
        if call is not None:
            found.append(_layer(op, weight, recipe.treatment(call.modules)))
    if lost:
        raise CheckFailed(f"it is not known of which module the {lost[0]} is")
    return _agreed(found)


def _table(op: Operation, stored: Mapping[str, Operation]) -> Operation | None:
    """The constant of a sum, if it is a table of finite values for several heads."""
    for parameter in ("x", "y"):
        const = stored.get(_name(op, parameter))
        if const is None:
            continue
        value = _data(const)
        if value.ndim >= 3 and value.size > LEAST_TABLE and np.isfinite(value).all():
            return const
    return None


def _layer(op: Operation, weight: Operation, treatment: Treatment) -> Layer:
    return Layer(
        operation=op.name,
        kind=op.kind,
        weight=weight.name,
        elements=_data(weight).size,
        fed=_name(op, "x"),
        treatment="weight_only" if op.kind == TABLE and treatment == "w8a8" else treatment,
    )


def _name(op: Operation, parameter: str) -> str:
    """The value an operand is bound to by name; nothing for one written in place."""
    bound = op.inputs[parameter][0]
    return bound if isinstance(bound, str) else ""


def _data(const: Operation) -> Array:
    value = const.inputs["val"][0]
    assert isinstance(value, Constant)
    assert not isinstance(value.data, str)
    return value.data


def _agreed(found: Sequence[Layer]) -> tuple[Layer, ...]:
    """The same with one treatment for each weight, and none for those coremltools passes over."""
    floating = {y.weight for y in found if y.treatment == "keep_float" or y.elements < FEWEST}
    return tuple(
        replace(layer, treatment="keep_float") if layer.weight in floating else layer
        for layer in found
    )
