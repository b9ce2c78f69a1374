"""Read one function of a saved `.mlpackage`, and count its ops and constants."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from effsam_export.backends.coreml.mil import package as files
from effsam_export.backends.coreml.mil.constants import constant, tensor_type
from effsam_export.backends.coreml.mil.features import read_features
from effsam_export.backends.coreml.mil.program import (
    Constant,
    NamedType,
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
"""Opsets of iOS 15 to 18 and 26. The supported ops of iOS 26 are those of iOS 18."""


def load(package: Path, function: str | None = None) -> Program:
    """Read one function of a saved package; its constants are views of the weight file.

    Args:
        package: The `.mlpackage` directory.
        function: Name of a function; None for the default function of the package.

    Raises:
        BundleError: The directory is not a package, a file is missing or truncated, or the package
            contradicts itself.
        UnknownNameError: The package has no such function.
        UsageError: The package is valid but not supported: states, control flow, lists, a model
            that is not an ML program, or an unknown opset.
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
        NamedType(name=i.name, type=tensor_type(i.type, f"input `{i.name}`")) for i in found.inputs
    ]
    operations, known = _operations(block, given, _weights_of(model))
    lost = [output for output in block.outputs if output not in known]
    if lost:
        raise BundleError(f"`{package.name}` does not compute its output `{lost[0]}`")
    results = [NamedType(name=output, type=known[output]) for output in block.outputs]
    inputs, outputs = read_features(spec.description, name, given, results)
    return Program(
        function=name, opset=found.opset, inputs=inputs, outputs=outputs, operations=operations
    )


def count_ops(program: Program) -> dict[str, int]:
    """Return the number of ops by kind, without `const`."""
    return dict(Counter(op.kind for op in program.operations if op.kind != "const"))


def count_constants(program: Program) -> dict[str, int]:
    """Return the number of constant elements by numpy dtype name, in their stored dtype."""
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
    block: Proto, given: list[NamedType], weights: Callable[[str], WeightFile]
) -> tuple[tuple[Operation, ...], dict[str, TensorType]]:
    """Return the ops of a block and the declared type of every value.

    Every input of an op must be defined before it.
    """
    if block.inputs:
        raise UsageError(f"the block has inputs, such as `{block.inputs[0].name}`")
    known = {value.name: value.type for value in given}
    operations = []
    for proto in block.operations:
        op = _operation(proto, weights)
        for parameter, bound in op.inputs.items():
            for value in bound:
                if isinstance(value, str) and value not in known:
                    raise BundleError(
                        f"{op} reads `{parameter}` from `{value}`, which no earlier op defines"
                    )
        for output in op.outputs:
            if output.name in known:
                raise BundleError(f"{op} defines `{output.name}` a second time")
            known[output.name] = output.type
        operations.append(op)
    return tuple(operations), known


def _operation(proto: Proto, weights: Callable[[str], WeightFile]) -> Operation:
    first = proto.outputs[0].name if proto.outputs else "nothing"
    where = f"`{proto.type}` with output `{first}`"
    if proto.blocks:
        raise UsageError(f"{where} has blocks (control flow), which are not supported")
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
            # Up to iOS 17, `constexpr_*` ops have their operands here; `const` has `val`.
            inputs[attribute] = (held,)
    outputs = tuple(
        NamedType(name=o.name, type=tensor_type(o.type, f"output `{o.name}` of `{proto.type}`"))
        for o in proto.outputs
    )
    return Operation(kind=proto.type, name=name, inputs=inputs, outputs=outputs)
