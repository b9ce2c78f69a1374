"""Read the inputs and outputs in a model's description, and compare them with its function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.backends.coreml.mil.program import Feature, NamedType, TensorType
from effsam_export.errors import BundleError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from effsam_export.backends.coreml.mil.package import Proto

ARRAY_DTYPES: dict[int, str] = {
    # FeatureTypes.proto, ArrayDataType -> numpy name
    65568: "float32",
    65600: "float64",
    131104: "int32",
    131080: "int8",
    65552: "float16",
}
RGB = 20
"""FeatureTypes.proto, ColorSpace."""


def read_features(
    description: Proto, function: str, given: Sequence[NamedType], results: Sequence[NamedType]
) -> tuple[tuple[Feature, ...], tuple[Feature, ...]]:
    """Return the inputs and outputs of a function in the order of the description.

    Args:
        description: The `ModelDescription` protobuf.
        function: Name of the function. A package of several functions describes each of them.
        given: Inputs that the function declares.
        results: Outputs that the function declares.

    Raises:
        BundleError: Names or types in the description differ from those of the function.
        UsageError: The model has states, or features other than arrays and RGB images.
    """
    if description.functions:
        by_name = {found.name: found for found in description.functions}
        if function not in by_name:
            raise BundleError(f"the package does not describe its function `{function}`")
        description = by_name[function]
    if description.state:
        raise UsageError(
            f"the model has the state `{description.state[0].name}`, which is not supported"
        )
    return (
        _match("input", description.input, given),
        _match("output", description.output, results),
    )


def _match(kind: str, shown: Proto, declared: Sequence[NamedType]) -> tuple[Feature, ...]:
    types = {value.name: value.type for value in declared}
    names = [feature.name for feature in shown]
    if sorted(names) != sorted(types):
        raise BundleError(
            f"the package describes the {kind}s {names}, but its function has {list(types)}"
        )
    return tuple(_feature(kind, feature, types[feature.name]) for feature in shown)


def _feature(kind: str, shown: Proto, declared: TensorType) -> Feature:
    what = shown.type.WhichOneof("Type")
    if what == "imageType":
        return _image(kind, shown, declared)
    if what != "multiArrayType":
        raise UsageError(f"the {kind} `{shown.name}` is a {what}, which is not supported")
    array = shown.type.multiArrayType
    dtype = ARRAY_DTYPES.get(array.dataType, f"type {array.dataType}")
    shape = tuple(array.shape)
    # The description has no shape for a scalar output or one of flexible shape.
    free = kind == "output" and not shape
    if dtype != declared.dtype or not (free or declared.fits(dtype, shape)):
        raise BundleError(
            f"the package describes its {kind} `{shown.name}` as {dtype} {list(shape)}, "
            f"but its function declares {declared}"
        )
    return Feature(name=shown.name, type=declared)


def _image(kind: str, shown: Proto, declared: TensorType) -> Feature:
    image = shown.type.imageType
    if kind == "output" or image.colorSpace != RGB:
        raise UsageError(f"the {kind} `{shown.name}` is an image that is not an RGB input")
    shape = (1, 3, int(image.height), int(image.width))
    if declared.dtype not in ("float32", "float16") or not declared.fits(declared.dtype, shape):
        raise BundleError(
            f"the package describes its input `{shown.name}` as an image of {list(shape)}, "
            f"but its function declares {declared}"
        )
    return Feature(name=shown.name, type=declared, image=True)
