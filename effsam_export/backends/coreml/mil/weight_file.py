"""Read the weight file of a package (`weights/weight.bin`).

The format is MIL's blob storage, version 2, little-endian, aligned to 64 bytes. The header has the
number of blobs (uint32) and the version (uint32). Every blob has a record of 64 bytes:

* a sentinel (uint32) and the element type (uint32)
* the size of the data in bytes (uint64) and its offset (uint64)
* for sub-byte elements, the number of unused bits of the last byte (uint64)

A constant of the program names the offset of its record. Sub-byte elements are packed without gaps,
lowest bits first. Source: coremltools, `mlmodel/src/MILBlob/Blob/StorageFormat.hpp`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from effsam_export.backends.coreml.mil.program import numpy_dtype
from effsam_export.errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

HEADER = struct.Struct("<II")
RECORD = struct.Struct("<IIQQQ")
RECORD_BYTES = 64
VERSION = 2
SENTINEL = 0xDEADBEEF

ELEMENTS: dict[int, tuple[str, int]] = {
    # code -> dtype, bits
    1: ("float16", 16),
    2: ("float32", 32),
    3: ("uint8", 8),
    4: ("int8", 8),
    6: ("int16", 16),
    7: ("uint16", 16),
    8: ("int4", 4),
    9: ("uint1", 1),
    10: ("uint2", 2),
    11: ("uint4", 4),
    12: ("uint3", 3),
    13: ("uint6", 6),
    14: ("int32", 32),
    15: ("uint32", 32),
}
BITS = dict(ELEMENTS.values())


class WeightFile:
    """An open weight file; the arrays that it returns are views of it.

    Raises:
        BundleError: The file is missing, or has no valid header.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        try:
            self.data: NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise BundleError(f"`{path.name}` of the package cannot be read: {error}") from error
        if len(self.data) < RECORD_BYTES:
            raise BundleError(f"`{path.name}` is truncated: it has {len(self.data)} bytes")
        _, version = HEADER.unpack(self.data[: HEADER.size].tobytes())
        if version != VERSION:
            raise BundleError(f"`{path.name}` is a weight file of version {version}, supported: 2")

    def read(self, offset: int, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return the constant with the record at `offset`, in its declared shape and dtype.

        Raises:
            BundleError: There is no record, it declares other data, or the file is truncated.
        """
        where = f"`{self.name}` at offset {offset}"
        if offset + RECORD_BYTES > len(self.data):
            raise BundleError(f"{where} is truncated: the file has {len(self.data)} bytes")
        record = self.data[offset : offset + RECORD.size].tobytes()
        sentinel, code, size, begin, spare_bits = RECORD.unpack(record)
        if sentinel != SENTINEL:
            raise BundleError(f"{where} has no record of a constant")
        found, bits = ELEMENTS.get(code, (f"type {code}", 0))
        if found != dtype:
            raise BundleError(f"{where} has {found}, but the program declares {dtype}")
        count = int(np.prod(shape, dtype=np.int64))
        if size != -(-count * bits // 8) or spare_bits != (size * 8 - count * bits):
            raise BundleError(f"{where} has {size} bytes, expected {count} elements of {bits} bits")
        if begin + size > len(self.data):
            raise BundleError(f"{where} is truncated: the file has {len(self.data)} bytes")
        raw = self.data[begin : begin + size]
        values = raw.view(numpy_dtype(dtype)) if bits >= 8 else unpack(raw, dtype, count)
        return values.reshape(shape)


def unpack(raw: NDArray[np.uint8], dtype: str, count: int) -> NDArray[Any]:
    """Unpack sub-byte elements to a byte each; signed ones are sign-extended."""
    bits = BITS[dtype]
    every = np.unpackbits(raw, bitorder="little")[: count * bits].reshape(count, bits)
    powers = np.arange(bits, dtype=np.uint8)
    values: NDArray[np.uint8] = (every << powers).sum(axis=1, dtype=np.uint8)
    if not dtype.startswith("int"):
        return values
    # Move the sign bit to the top of the byte and back, so that it fills the bits above.
    signed: NDArray[np.int8] = (values << (8 - bits)).view(np.int8)
    return signed >> (8 - bits)
