"""Rewrite ``x * (0.5 * (1 + erf(x / sqrt(2))))`` as ``(x * (1 + erf(x / sqrt(2)))) * 0.5``.

Both forms of GELU have the same values, because a factor of two loses no bit. ONNX Runtime fuses
only the second one. Unfused, the 23 GELUs of MobileSAM's encoder take 0.82 s instead of 0.53 s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx


def apply(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """Regroup every exact GELU; the note holds how many were regrouped and how many were not."""
    graph = ir.from_proto(model)
    done, shared = 0, 0
    for outer in graph.graph:
        for x, half in _factors(outer):
            gate = _gate(half, x)
            if gate is None:
                continue
            if len(half.outputs[0].uses()) > 1 or half.outputs[0].is_graph_output():
                # Another node uses its value, so it cannot be changed.
                shared += 1
                continue
            constant = next(v for v in half.inputs if v is not gate)
            half.replace_input_with(0, x)
            half.replace_input_with(1, gate)
            outer.replace_input_with(0, half.outputs[0])
            outer.replace_input_with(1, constant)
            done += 1
            break
    note = f"{done} regrouped" if done else "no GELU of this form"
    if shared:
        note += f"; refused {shared}: half of it is used elsewhere"
    return ir.to_proto(graph), note


def _factors(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Node]]:
    """Yield (value, product node) for each operand of a product that is itself a product."""
    if node.op_type != "Mul":
        return
    for value, other in (node.inputs, node.inputs[::-1]):
        producer = None if other is None else other.producer()
        if value is not None and producer is not None and producer.op_type == "Mul":
            yield value, producer


def _gate(half: ir.Node, x: ir.Value) -> ir.Value | None:
    """Return the value ``1 + erf(x / sqrt(2))`` if `half` multiplies it by 0.5, else None."""
    for constant, gate in (half.inputs, half.inputs[::-1]):
        if not _is_constant(constant, 0.5) or gate is None:
            continue
        add = gate.producer()
        if add is None or add.op_type != "Add":
            continue
        for one, erf_out in (add.inputs, add.inputs[::-1]):
            erf = None if erf_out is None else erf_out.producer()
            if _is_constant(one, 1.0) and erf is not None and erf.op_type == "Erf":
                scaled = erf.inputs[0]
                division = None if scaled is None else scaled.producer()
                if division is not None and division.op_type == "Div":
                    over = division.inputs[1]
                    if division.inputs[0] is x and _is_constant(over, 2**0.5):
                        return gate
    return None


def _is_constant(value: ir.Value | None, number: float) -> bool:
    """Return whether a value is a constant with this number, within FP32 accuracy."""
    constant = None if value is None else ir.convenience.get_const_tensor(value)
    if constant is None or constant.size != 1:
        return False
    return abs(float(constant.numpy().reshape(-1)[0]) - number) < 1e-6
