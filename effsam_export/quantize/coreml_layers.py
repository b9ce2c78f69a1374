"""The layers with weights of a saved ML program, and what an INT8 recipe makes of each.

coremltools carries the number of an FX node, its `debug_handle`, to the operations that came of it
(see `backends/coreml_precision.py`). So an operation is sorted by the modules its node was called
in, and not by a name that coremltools made up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from effsam_export.errors import CheckFailed
from effsam_export.mil.program import Constant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from effsam_export.mil.program import Operation, Program
    from effsam_export.precision.select import Place
    from effsam_export.quantize.plan import Int8Recipe, Treatment

KINDS = ("conv", "conv_transpose", "linear")
"""MIL's operations that have a weight and are sorted by a recipe."""
CALLS = ("conv1d", "conv2d", "convolution", "conv_transpose2d", "linear", "addmm", "mm")
"""Torch's, by the names of `precision.select.op_name`."""
INT8_PRODUCTS = ("conv", "linear")
"""Those of `KINDS` whose inputs coremltools quantizes; it leaves a `conv_transpose` alone."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One operation with a weight.

    Attributes:
        operation: Its own name, by which coremltools' configurations find it.
        kind: One of `KINDS`.
        weight: Name of the constant.
        elements: Of the weight.
        fed: Name of the value that goes in.
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
    program: Program, places: Mapping[str, Sequence[Place]], recipe: Int8Recipe
) -> tuple[Layer, ...]:
    """Every layer of a program, in its order, with its treatment.

    Weights that several layers share are stored once: if one of them stays floating, so do all.

    Args:
        program: In floating point, as it was saved.
        places: Operation by its first output -> the FX nodes it came of.
        recipe: What is asked.

    Raises:
        CheckFailed: A layer of the traced program is not found among the operations.
    """
    stored = {op.outputs[0].name: op for op in program.operations if op.kind == "const"}
    found = []
    seen: set[Place] = set()
    for op in program.operations:
        if op.kind not in KINDS:
            continue
        weight = stored.get(_name(op, "weight"))
        calls = [p for p in places.get(op.outputs[0].name, ()) if p.op in CALLS]
        if weight is None or not calls:
            continue
        seen.update(calls)
        found.append(
            Layer(
                operation=op.name,
                kind=op.kind,
                weight=weight.name,
                elements=_elements(weight),
                fed=_name(op, "x"),
                treatment=recipe.treatment(calls[0].modules),
            )
        )
    _check_found(seen, places)
    return _agreed(found)


def _name(op: Operation, parameter: str) -> str:
    """The value an operand is bound to by name; nothing for one written in place."""
    bound = op.inputs[parameter][0]
    return bound if isinstance(bound, str) else ""


def _elements(const: Operation) -> int:
    value = const.inputs["val"][0]
    assert isinstance(value, Constant)
    assert not isinstance(value.data, str)
    return int(value.data.size)


def _check_found(seen: set[Place], places: Mapping[str, Sequence[Place]]) -> None:
    """An entry that lost its operation would stay floating, and no one would know."""
    wanted = {p for several in places.values() for p in several if p.op in CALLS and p.op != "mm"}
    lost = sorted({p.modules[-1] for p in wanted - seen if p.modules})
    if lost:
        raise CheckFailed(
            "no operation of the saved program has the weights of "
            + ", ".join(f"`{module}`" for module in lost[:5])
        )


def _agreed(found: Sequence[Layer]) -> tuple[Layer, ...]:
    from dataclasses import replace

    floating = {layer.weight for layer in found if layer.treatment == "float"}
    return tuple(
        replace(layer, treatment="float") if layer.weight in floating else layer for layer in found
    )
