"""What the model's description shows to an app, held against what its function takes and gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.backends.coreml.mil.program import Feature, Named, TensorType
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


def described(
    description: Proto, function: str, given: Sequence[Named], results: Sequence[Named]
) -> tuple[tuple[Feature, ...], tuple[Feature, ...]]:
    """Inputs and outputs as the description orders them.

    Args:
        description: The `ModelDescription` protobuf.
        function: Whose description is wanted; only packages of several functions have one each.
        given: What the function itself declares to take.
        results: What it declares to give.

    Raises:
        BundleError: The description names or types other tensors than the function.
        UsageError: It has states, or features that are neither arrays nor RGB pictures.
    """
    if description.functions:
        by_name = {found.name: found for found in description.functions}
        if function not in by_name:
            raise BundleError(f"the package does not describe its function `{function}`")
        description = by_name[function]
    if description.state:
        raise UsageError(f"the model keeps the state `{description.state[0].name}`")
    return (
        _match("input", description.input, given),
        _match("output", description.output, results),
    )


def _match(kind: str, shown: Proto, declared: Sequence[Named]) -> tuple[Feature, ...]:
    types = {value.name: value.type for value in declared}
    names = [feature.name for feature in shown]
    if sorted(names) != sorted(types):
        raise BundleError(f"the package describes the {kind}s {names}, but has {list(types)}")
    return tuple(_feature(kind, feature, types[feature.name]) for feature in shown)


def _feature(kind: str, shown: Proto, declared: TensorType) -> Feature:
    what = shown.type.WhichOneof("Type")
    if what == "imageType":
        return _image(kind, shown, declared)
    if what != "multiArrayType":
        raise UsageError(f"the {kind} `{shown.name}` is a {what}, which is not evaluated")
    array = shown.type.multiArrayType
    dtype = ARRAY_DTYPES.get(array.dataType, f"type {array.dataType}")
    shape = tuple(array.shape)
    # An output of flexible shape, and a scalar output, are described without a shape.
    free = kind == "output" and not shape
    if dtype != declared.dtype or not (free or declared.fits(dtype, shape)):
        raise BundleError(
            f"the package describes its {kind} `{shown.name}` as {dtype} {list(shape)}, "
            f"but declares {declared}"
        )
    return Feature(name=shown.name, type=declared)


def _image(kind: str, shown: Proto, declared: TensorType) -> Feature:
    image = shown.type.imageType
    if kind == "output" or image.colorSpace != RGB:
        raise UsageError(f"the {kind} `{shown.name}` is not an RGB picture that goes in")
    shape = (1, 3, int(image.height), int(image.width))
    if declared.dtype not in ("float32", "float16") or not declared.fits(declared.dtype, shape):
        raise BundleError(
            f"the package describes its input `{shown.name}` as a picture of {list(shape)}, "
            f"but declares {declared}"
        )
    return Feature(name=shown.name, type=declared, image=True)
