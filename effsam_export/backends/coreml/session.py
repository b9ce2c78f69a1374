"""Running a package: in Core ML, or in the evaluator that stands in for it off macOS."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from effsam_export.backends.coreml import package as coreml_package
from effsam_export.backends.coreml import sdk as coreml_sdk
from effsam_export.backends.coreml.convert import MAIN
from effsam_export.backends.coreml.mil import evaluate, read
from effsam_export.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from effsam_export.spec.tensors import Array, Feeds

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Takes:
    """What one function of a package takes and gives, as its description says.

    Attributes:
        shapes: Of its inputs, by name.
        pictures: Those of its inputs that are pictures.
        outputs: Names in order.
    """

    shapes: Shapes
    pictures: frozenset[str]
    outputs: tuple[str, ...]


def functions_of(package: Path) -> dict[str, Takes]:
    """Every function of a package by name; the default function comes first."""
    description = coreml_package.read_spec(package).description
    if not description.functions:
        return {MAIN: _takes(description)}
    found = {f.name: _takes(f) for f in description.functions}
    default = description.defaultFunctionName
    return {default: found[default], **found}


def _takes(function: Any) -> Takes:  # noqa: ANN401 - protobuf of a package without types
    shapes: Shapes = {}
    pictures = []
    for feature in function.input:
        if feature.type.WhichOneof("Type") == "imageType":
            image = feature.type.imageType
            shapes[feature.name] = (1, 3, image.height, image.width)
            pictures.append(feature.name)
        else:
            shapes[feature.name] = tuple(feature.type.multiArrayType.shape)
    return Takes(
        shapes=shapes,
        pictures=frozenset(pictures),
        outputs=tuple(f.name for f in function.output),
    )


def function_for(functions: Mapping[str, Takes], feeds: Feeds) -> str:
    """The function that takes tensors of these shapes.

    Raises:
        UsageError: There is none.
    """
    given = {name: tuple(value.shape) for name, value in feeds.items()}
    for name, takes in functions.items():
        if takes.shapes == given:
            return name
    wanted = " or ".join(str(t.shapes) for t in functions.values())
    raise UsageError(f"the package takes {wanted}, and was given {given}")


def whole_pixels(image: Array) -> Array:
    """A picture as an image input of Core ML gets it: uint8, HxWx3, of a float 1x3xHxW."""
    pixels: Array = np.clip(np.rint(image[0]), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return np.ascontiguousarray(pixels)


@dataclass(frozen=True, kw_only=True)
class CoremlSession:
    """A package whose functions are opened when they are first needed."""

    package: Path
    units: str
    native: bool
    functions: Mapping[str, Takes]
    opened: dict[str, Any] = field(default_factory=dict)

    def run(self, feeds: Feeds) -> Feeds:
        """Run the function that takes as many points as were given."""
        name = function_for(self.functions, feeds)
        takes = self.functions[name]
        pictures = takes.pictures
        given = {k: whole_pixels(v) if k in pictures else v for k, v in feeds.items()}
        if name not in self.opened:
            self.opened[name] = self._open(name)
        program = self.opened[name]
        if not self.native:
            return evaluate.run(program, given)
        found = program.predict(
            {k: Image.fromarray(v) if k in pictures else v for k, v in given.items()}
        )
        return {k: np.asarray(found[k]) for k in takes.outputs}

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
    """Open a package without loading anything yet.

    Args:
        package: The `.mlpackage` directory.
        units: Member of `coremltools.ComputeUnit`, for Core ML.
        native: Run in Core ML, which needs macOS.
    """
    return CoremlSession(
        package=package, units=units, native=native, functions=functions_of(package)
    )
