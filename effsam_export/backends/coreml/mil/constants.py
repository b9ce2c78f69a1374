"""Read types and constant values of a MIL protobuf."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from effsam_export.backends.coreml.mil.program import Constant, TensorType, numpy_dtype
from effsam_export.backends.coreml.mil.weight_file import BITS, unpack
from effsam_export.errors import BundleError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from effsam_export.backends.coreml.mil.package import Proto
    from effsam_export.backends.coreml.mil.weight_file import WeightFile

DTYPES: dict[int, str] = {
    # MIL.proto, DataType -> numpy name
    1: "bool",
    2: "string",
    10: "float16",
    11: "float32",
    12: "float64",
    21: "int8",
    22: "int16",
    23: "int32",
    24: "int64",
    25: "int4",
    31: "uint8",
    32: "uint16",
    33: "uint32",
    34: "uint64",
    35: "uint4",
    36: "uint2",
    37: "uint1",
    38: "uint6",
    39: "uint3",
}

FIELDS: dict[str, tuple[str, ...]] = {
    # field of TensorValue -> dtypes that coremltools stores in it
    "floats": ("float32",),
    "doubles": ("float64",),
    "ints": ("int16", "int32", "uint16", "uint32"),
    "longInts": ("int64", "uint64"),
    "bools": ("bool",),
    "bytes": ("float16", "int8", "uint8", "uint32", *(d for d, bits in BITS.items() if bits < 8)),
}


def tensor_type(declared: Proto, where: str) -> TensorType:
    """Convert a declared `ValueType` to a `TensorType`.

    Raises:
        UsageError: The type is not a tensor (list, tuple, dictionary, state), or its rank or dtype
            is unknown.
    """
    kind = declared.WhichOneof("type")
    if kind != "tensorType":
        raise UsageError(f"{where} is a {kind or 'value without a type'}, which is not supported")
    found = declared.tensorType
    if found.dataType not in DTYPES:
        raise UsageError(f"{where} has the unknown data type {found.dataType}")
    if found.rank != len(found.dimensions):
        raise UsageError(f"{where} has a dynamic rank")
    sizes: list[int | None] = []
    for dimension in found.dimensions:
        if dimension.WhichOneof("dimension") == "constant":
            sizes.append(int(dimension.constant.size))
        elif dimension.unknown.variadic:
            raise UsageError(f"{where} has a dynamic rank")
        else:
            sizes.append(None)
    return TensorType(dtype=DTYPES[found.dataType], shape=tuple(sizes))


def constant(value: Proto, where: str, weights: Callable[[str], WeightFile]) -> Constant:
    """Read a constant `Value` from the protobuf or from the weight file that it names.

    Args:
        value: The protobuf message.
        where: Description of the constant for an error message.
        weights: Function that opens a weight file by its name in the protobuf.

    Raises:
        BundleError: The value does not have its declared type, or the weight file is broken.
        UsageError: The value is not a tensor.
    """
    declared = tensor_type(value.type, where)
    shape = tuple(size for size in declared.shape if size is not None)
    if len(shape) != len(declared.shape):
        raise BundleError(f"{where} is a constant of unknown shape")
    held = value.WhichOneof("value")
    if held == "blobFileValue":
        blob = value.blobFileValue
        data = weights(blob.fileName).read(blob.offset, declared.dtype, shape)
        return Constant(type=declared, data=data)
    if held != "immediateValue" or value.immediateValue.WhichOneof("value") != "tensor":
        raise UsageError(
            f"{where} is a {held or 'constant without a value'}, which is not supported"
        )
    return Constant(type=declared, data=_immediate(value.immediateValue.tensor, declared, where))


def _immediate(tensor: Proto, declared: TensorType, where: str) -> np.ndarray[Any, Any] | str:
    field = tensor.WhichOneof("value")
    if declared.dtype == "string" and field == "strings" and declared.shape == ():
        if len(tensor.strings.values) == 1:
            return str(tensor.strings.values[0])
        raise BundleError(f"{where} declares one string but holds another number of them")
    if declared.dtype not in FIELDS.get(field or "", ()):
        raise BundleError(f"{where} declares {declared} but holds {field or 'nothing'}")
    shape = tuple(int(size or 0) for size in declared.shape)
    count = int(np.prod(shape, dtype=np.int64))
    values = getattr(tensor, str(field)).values
    if field == "bytes":
        raw = np.frombuffer(values, dtype=np.uint8)
        bits = BITS[declared.dtype]
        if len(raw) != -(-count * bits // 8):
            raise BundleError(f"{where} declares {declared} but holds {len(raw)} bytes")
        data = (
            raw.view(numpy_dtype(declared.dtype))
            if bits >= 8
            else unpack(raw, declared.dtype, count)
        )
    else:
        if len(values) != count:
            raise BundleError(f"{where} declares {declared} but holds {len(values)} elements")
        data = np.array(values, dtype=numpy_dtype(declared.dtype))
    return data.reshape(shape)
