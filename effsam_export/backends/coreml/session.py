"""Run a package in Core ML, or in the evaluator of `mil` on systems other than macOS."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from effsam_export.backends.coreml import package as coreml_package
from effsam_export.backends.coreml import sdk as coreml_sdk
from effsam_export.backends.coreml.convert import MAIN
from effsam_export.backends.coreml.mil import evaluate, read
from effsam_export.backends.coreml.mil.features import ARRAY_DTYPES
from effsam_export.errors import UsageError
from effsam_export.spec.tensors import ReportedTensor, Signature

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from effsam_export.spec.tensors import Array, Feeds

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class FunctionSignature:
    """The inputs and outputs of one function of a package, from the model's description.

    Attributes:
        shapes: Input shapes by name.
        image_inputs: Names of the inputs that are RGB images.
        outputs: Output names in order.
    """

    shapes: Shapes
    image_inputs: frozenset[str]
    outputs: tuple[str, ...]


def functions_of(package: Path) -> dict[str, FunctionSignature]:
    """Return the functions of a package by name, the default function first."""
    description = coreml_package.read_spec(package).description
    if not description.functions:
        return {MAIN: _signature(description)}
    found = {f.name: _signature(f) for f in description.functions}
    default = description.defaultFunctionName
    return {default: found[default], **found}


def _signature(function: Any) -> FunctionSignature:  # noqa: ANN401 - protobuf of a package without types
    shapes: Shapes = {}
    image_inputs = []
    for feature in function.input:
        if feature.type.WhichOneof("Type") == "imageType":
            image = feature.type.imageType
            shapes[feature.name] = (1, 3, image.height, image.width)
            image_inputs.append(feature.name)
        else:
            shapes[feature.name] = tuple(feature.type.multiArrayType.shape)
    return FunctionSignature(
        shapes=shapes,
        image_inputs=frozenset(image_inputs),
        outputs=tuple(f.name for f in function.output),
    )


def reported(function: Any) -> Signature:  # noqa: ANN401 - protobuf of a package without types
    """Return the inputs and outputs of one function, from the model's description."""
    return Signature(
        inputs=tuple(_reported(f) for f in function.input),
        outputs=tuple(_reported(f) for f in function.output),
    )


def _reported(feature: Any) -> ReportedTensor:  # noqa: ANN401 - protobuf of a package without types
    if feature.type.WhichOneof("Type") == "imageType":
        image = feature.type.imageType
        shape = (int(image.height), int(image.width), 3)
        return ReportedTensor(name=feature.name, shape=shape, dtype="uint8")
    array = feature.type.multiArrayType
    return ReportedTensor(
        name=feature.name,
        # The description has no shape for a scalar output or one of flexible shape.
        shape=tuple(int(n) for n in array.shape) or None,
        dtype=ARRAY_DTYPES.get(array.dataType, f"type {array.dataType}"),
    )


def function_for(functions: Mapping[str, FunctionSignature], feeds: Feeds) -> str:
    """Return the name of the function whose inputs have the shapes of these tensors.

    Raises:
        UsageError: There is no such function.
    """
    given = {name: tuple(value.shape) for name, value in feeds.items()}
    for name, signature in functions.items():
        if signature.shapes == given:
            return name
    expected = " or ".join(str(s.shapes) for s in functions.values())
    raise UsageError(f"the package takes {expected}, but the inputs are {given}")


def to_uint8_image(image: Array) -> Array:
    """Convert a float image 1x3xHxW (0 to 255) to uint8 HxWx3 for an image input of Core ML."""
    pixels: Array = np.clip(np.rint(image[0]), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return np.ascontiguousarray(pixels)


@dataclass(frozen=True, kw_only=True)
class CoremlSession:
    """A package whose functions are loaded when they are first used.

    Attributes:
        package: The `.mlpackage` directory.
        units: Member of `coremltools.ComputeUnit`, for Core ML.
        native: Run in Core ML instead of in the evaluator.
        functions: Signatures by function name.
        opened: Functions loaded so far, by name.
    """

    package: Path
    units: str
    native: bool
    functions: Mapping[str, FunctionSignature]
    opened: dict[str, Any] = field(default_factory=dict)

    def run(self, feeds: Feeds) -> Feeds:
        """Run the function whose input shapes match; return its outputs by name."""
        name = function_for(self.functions, feeds)
        signature = self.functions[name]
        images = signature.image_inputs
        given = {k: to_uint8_image(v) if k in images else v for k, v in feeds.items()}
        if name not in self.opened:
            self.opened[name] = self._open(name)
        program = self.opened[name]
        if not self.native:
            return evaluate.run(program, given)
        found = program.predict(
            {k: Image.fromarray(v) if k in images else v for k, v in given.items()}
        )
        return {k: np.asarray(found[k]) for k in signature.outputs}

    def signature(self) -> Signature:
        """Return the inputs and outputs of the default function."""
        description = coreml_package.read_spec(self.package).description
        functions = {f.name: f for f in description.functions}
        return reported(functions.get(description.defaultFunctionName, description))

    def _open(self, name: str) -> Any:  # noqa: ANN401 - a model of Core ML, or a program
        if not self.native:
            return read.load(self.package, name)
        ct = coreml_sdk.load()
        return ct.models.MLModel(
            str(self.package),
            compute_units=getattr(ct.ComputeUnit, self.units),
            function_name=None if name == MAIN else name,
        )


def open_package(package: Path, *, units: str, native: bool) -> CoremlSession:
    """Read the signatures of a package; its functions are loaded when they are first used.

    Args:
        package: The `.mlpackage` directory.
        units: Member of `coremltools.ComputeUnit`, for Core ML.
        native: Run in Core ML, which needs macOS.
    """
    return CoremlSession(
        package=package, units=units, native=native, functions=functions_of(package)
    )
