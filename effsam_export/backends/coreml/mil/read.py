"""A saved `.mlpackage` to one function of its program, and the counts a receipt shows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from effsam_export.backends.coreml.mil import package as files
from effsam_export.backends.coreml.mil.constants import constant, tensor_type
from effsam_export.backends.coreml.mil.features import described
from effsam_export.backends.coreml.mil.program import (
    Constant,
    Named,
    Operation,
    Program,
    TensorType,
)
from effsam_export.backends.coreml.mil.weight_file import WeightFile
from effsam_export.errors import BundleError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from effsam_export.backends.coreml.mil.package import Proto

OPSETS = ("CoreML5", "CoreML6", "CoreML7", "CoreML8", "CoreML9")
"""iOS 15 to 18, and 26, whose ops here are those of 18."""


def load(package: Path, function: str | None = None) -> Program:
    """One function of a saved package; constants are views of its weight file.

    Args:
        package: The `.mlpackage` folder.
        function: Name of a function; left out, the one the package calls its default.

    Raises:
        BundleError: Not a package, a file of it is missing or cut off, or it contradicts itself.
        UnknownNameError: It has no such function.
        UsageError: It is sound, but has something that is not evaluated: states, control flow,
            lists, another kind of model than an ML program, an unknown opset.
    """
    model = files.model_file(package)
    spec = files.parse(model)
    if spec.WhichOneof("Type") != "mlProgram":
        raise UsageError(f"`{package.name}` is not an ML program but a {spec.WhichOneof('Type')}")
    if spec.mlProgram.version != 1:
        raise UsageError(f"`{package.name}` has a MIL program of version {spec.mlProgram.version}")
    name = function or spec.description.defaultFunctionName or "main"
    if name not in spec.mlProgram.functions:
        raise UnknownNameError("function", name, spec.mlProgram.functions)
    found = spec.mlProgram.functions[name]
    if found.opset not in OPSETS:
        raise UsageError(f"`{package.name}` uses the unknown opset `{found.opset}`")
    if found.opset not in found.block_specializations:
        raise BundleError(f"`{package.name}` has no block for its opset `{found.opset}`")
    block = found.block_specializations[found.opset]
    given = [
        Named(name=i.name, type=tensor_type(i.type, f"input `{i.name}`")) for i in found.inputs
    ]
    operations, known = _operations(block, given, _weights_of(model))
    lost = [output for output in block.outputs if output not in known]
    if lost:
        raise BundleError(f"`{package.name}` lacks its own output `{lost[0]}`")
    results = [Named(name=output, type=known[output]) for output in block.outputs]
    inputs, outputs = described(spec.description, name, given, results)
    return Program(
        function=name, opset=found.opset, inputs=inputs, outputs=outputs, operations=operations
    )


def count_ops(program: Program) -> dict[str, int]:
    """How often each kind of op occurs, `const` left out."""
    return dict(Counter(op.kind for op in program.operations if op.kind != "const"))


def count_constants(program: Program) -> dict[str, int]:
    """Elements of all constants by numpy dtype name, compressed weights as they are stored."""
    counts: Counter[str] = Counter()
    for op in program.operations:
        for bound in op.inputs.values():
            for value in bound:
                if isinstance(value, Constant) and not isinstance(value.data, str):
                    counts[value.type.dtype] += value.data.size
    return dict(counts)


def _weights_of(model: Path) -> Callable[[str], WeightFile]:
    opened: dict[str, WeightFile] = {}

    def weights(file_name: str) -> WeightFile:
        if file_name not in opened:
            opened[file_name] = WeightFile(files.weights_path(model, file_name))
        return opened[file_name]

    return weights


def _operations(
    block: Proto, given: list[Named], weights: Callable[[str], WeightFile]
) -> tuple[tuple[Operation, ...], dict[str, TensorType]]:
    """The ops of a block, each of whose inputs is defined before it; and every type declared."""
    if block.inputs:
        raise UsageError(f"the block takes inputs of its own, such as `{block.inputs[0].name}`")
    known = {value.name: value.type for value in given}
    operations = []
    for proto in block.operations:
        op = _operation(proto, weights)
        for parameter, bound in op.inputs.items():
            for value in bound:
                if isinstance(value, str) and value not in known:
                    raise BundleError(
                        f"{op} takes `{parameter}` from `{value}`, which no earlier op gives"
                    )
        for output in op.outputs:
            if output.name in known:
                raise BundleError(f"{op} gives `{output.name}` for a second time")
            known[output.name] = output.type
        operations.append(op)
    return tuple(operations), known


def _operation(proto: Proto, weights: Callable[[str], WeightFile]) -> Operation:
    first = proto.outputs[0].name if proto.outputs else "nothing"
    where = f"`{proto.type}` that gives `{first}`"
    if proto.blocks:
        raise UsageError(f"{where} holds blocks (control flow), which is not evaluated")
    inputs: dict[str, tuple[str | Constant, ...]] = {}
    for parameter, argument in proto.inputs.items():
        inputs[parameter] = tuple(
            binding.name
            if binding.WhichOneof("binding") == "name"
            else constant(binding.value, f"`{parameter}` of {where}", weights)
            for binding in argument.arguments
        )
    name = first
    for attribute, value in proto.attributes.items():
        held = constant(value, f"`{attribute}` of {where}", weights)
        if attribute == "name":
            name = str(held.data)
        elif attribute in inputs:
            raise BundleError(f"{where} has `{attribute}` both as input and as attribute")
        else:
            # Up to iOS 17, `constexpr_*` ops keep their operands here; `const` keeps `val`.
            inputs[attribute] = (held,)
    outputs = tuple(
        Named(name=o.name, type=tensor_type(o.type, f"output `{o.name}` of `{proto.type}`"))
        for o in proto.outputs
    )
    return Operation(kind=proto.type, name=name, inputs=inputs, outputs=outputs)
