"""Read numbers from `.npy` and `.npz` files of strangers, bounded by what their headers declare.

`numpy.load` allocates what a header asks for, and numbers may be objects, dates or complex.
"""

from __future__ import annotations

import io
import math
import tokenize
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from effsam_export.errors import shown
from effsam_export.util import zip_directory

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.tensors import Array, Float32

MAX_BYTES = 256_000_000
"""Bytes of one array: 15 masks of 2048 x 2048 in FP32."""
MAX_HEADER = 10_000
MAX_DIMENSIONS = 8
KINDS = "fiub"
"""Floating point, signed and unsigned integers, bool."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_npy(content: bytes) -> Array:
    """Return the array of a `.npy` file.

    Raises:
        ValueError: It is not a `.npy` file, its header asks for another number of bytes than
            follow, or its dtype is not a number.
    """
    stream = io.BytesIO(content)
    version = npy.read_magic(stream)  # type: ignore[no-untyped-call]
    shape, fortran_order, dtype = _header(stream, version)
    if dtype.kind not in KINDS or dtype.hasobject or dtype.fields or dtype.subdtype:
        raise ValueError(f"its dtype is {shown(dtype)}, not a number")
    if len(shape) > MAX_DIMENSIONS or any(side < 0 for side in shape):
        raise ValueError(f"its shape is {shown(shape)}")
    wanted, size = math.prod(shape) * dtype.itemsize, len(content) - stream.tell()
    if wanted != size:
        raise ValueError(f"its header declares {shown(shape)} of {dtype}, {size} bytes follow")
    values = np.frombuffer(content, dtype=dtype, offset=stream.tell())
    return values.reshape(shape, order="F" if fortran_order else "C")


def _header(
    stream: io.BytesIO, version: tuple[int, int]
) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, order and dtype.

    Raises:
        ValueError: The header is not valid.
    """
    readers: dict[tuple[int, int], Any] = {
        (1, 0): npy.read_array_header_1_0,
        (2, 0): npy.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"its format has version {version}")
    try:
        # numpy parses a Python literal, whose parser has errors and warnings of its own.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape, fortran_order, dtype = readers[version](stream, max_header_size=MAX_HEADER)
    except (
        SyntaxError,
        tokenize.TokenError,
        TypeError,
        RecursionError,
        MemoryError,
        OverflowError,
    ) as error:
        raise ValueError("its header is not valid") from error
    return shape, fortran_order, dtype


def read_member(path: Path, name: str, max_bytes: int = MAX_BYTES) -> Array | None:
    """Return one array of a `.npz` file; None if the file has no array of this name.

    Raises:
        ValueError: The file is not a zip file, is damaged, or the array is as `read_npy` refuses.
        OSError: The file cannot be read.
    """
    try:
        zip_directory.check_directory(path)
        with zipfile.ZipFile(path) as archive:
            entry = next((e for e in archive.infolist() if e.filename == f"{name}.npy"), None)
            if entry is None:
                return None
            if entry.file_size > max_bytes:
                raise ValueError(f"`{name}` has {entry.file_size} bytes, want {max_bytes} at most")
            if entry.compress_type not in METHODS:
                raise ValueError(f"`{name}` is compressed by method {entry.compress_type}")
            with archive.open(entry) as member:
                # One byte more than declared: an entry that goes on is refused with its CRC.
                content = member.read(entry.file_size + 1)
    except zip_directory.DAMAGED as error:
        raise ValueError(str(error)) from error
    return read_npy(content)


def to_float32(values: Array) -> Float32:
    """Return an array in FP32.

    Raises:
        ValueError: A value is NaN, infinite, or beyond the range of FP32.
    """
    if not np.isfinite(values).all():
        raise ValueError("NaN or Inf")
    if values.dtype.kind == "f" and np.abs(values).max(initial=0) > np.finfo(np.float32).max:
        raise ValueError("a value beyond the range of FP32")
    return np.asarray(values, dtype=np.float32)
