"""The reader of weight files against coremltools' own writer and reader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("coremltools")

from effsam_export.backends.coreml.mil.weight_file import WeightFile
from effsam_export.errors import BundleError
from tests.backends.coreml.mil.building import quiet

with quiet():
    from coremltools.converters.mil.mil import types
    from coremltools.libmilstoragepython import _BlobStorageWriter as Writer

if TYPE_CHECKING:
    from pathlib import Path

    Array = np.ndarray[Any, Any]

pytestmark = pytest.mark.backend

COUNT = 29
"""Not a whole number of bytes for any element below a byte."""

SUB_BYTE = {"uint1": 1, "uint2": 2, "uint3": 3, "uint4": 4, "uint6": 6, "int4": 4}
WRITERS = {"float32": "float", "float16": "fp16"}


def values(dtype: str) -> Array:
    rng = np.random.default_rng(COUNT)
    if dtype.startswith("float"):
        return rng.standard_normal(COUNT).astype(dtype)
    if dtype == "int4":
        return rng.integers(-8, 8, COUNT).astype(np.int8)
    if dtype in SUB_BYTE:
        return rng.integers(0, 2 ** SUB_BYTE[dtype], COUNT).astype(np.uint8)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, COUNT, dtype=np.int64).astype(dtype)


def write(path: Path, *dtypes: str) -> list[int]:
    """Write blobs of some dtypes; return the offsets of their records."""
    writer = Writer(str(path))
    offsets = []
    for dtype in dtypes:
        data = values(dtype)
        if dtype in SUB_BYTE:
            data = data.astype(types.nptype_from_builtin(types.string_to_builtin(dtype)))
        if dtype == "float16":
            data = data.view(np.uint16)
        offsets.append(getattr(writer, f"write_{WRITERS.get(dtype, dtype)}_data")(data))
    del writer
    return offsets


DTYPES = (
    *("float32", "float16", "int8", "uint8", "int16", "uint16", "int32", "uint32"),
    *SUB_BYTE,
)


@pytest.mark.parametrize("dtype", DTYPES)
def test_files_of_coremltools_are_read(dtype: str, tmp_path: Path) -> None:
    _, offset, _ = write(tmp_path / "weight.bin", "int8", dtype, "float32")
    found = WeightFile(tmp_path / "weight.bin").read(offset, dtype, (COUNT, 1))
    assert found.dtype == values(dtype).dtype
    np.testing.assert_array_equal(found, values(dtype)[:, None])


@pytest.mark.parametrize("size", [0, 63])
def test_a_file_without_a_header_is_refused(size: int, tmp_path: Path) -> None:
    path = tmp_path / "weight.bin"
    path.write_bytes(bytes(size))
    with pytest.raises(BundleError, match=r"`weight\.bin` "):
        WeightFile(path)


def test_another_version_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "weight.bin", "int8")
    data = bytearray((tmp_path / "weight.bin").read_bytes())
    data[4] = 3
    (tmp_path / "weight.bin").write_bytes(data)
    with pytest.raises(BundleError) as raised:
        WeightFile(tmp_path / "weight.bin")
    assert raised.value.message == "`weight.bin` is a weight file of version 3, supported: 2"


def test_another_dtype_than_declared_is_refused(tmp_path: Path) -> None:
    (offset,) = write(tmp_path / "weight.bin", "float32")
    with pytest.raises(BundleError) as raised:
        WeightFile(tmp_path / "weight.bin").read(offset, "float16", (COUNT,))
    assert raised.value.message == (
        f"`weight.bin` at offset {offset} has float32, but the program declares float16"
    )


@pytest.mark.parametrize(("dtype", "bits", "size"), [("float32", 32, 116), ("uint3", 3, 11)])
def test_another_count_than_declared_is_refused(
    dtype: str, bits: int, size: int, tmp_path: Path
) -> None:
    (offset,) = write(tmp_path / "weight.bin", dtype)
    with pytest.raises(BundleError) as raised:
        WeightFile(tmp_path / "weight.bin").read(offset, dtype, (COUNT - 1,))
    assert raised.value.message == (
        f"`weight.bin` at offset {offset} has {size} bytes, expected 28 elements of {bits} bits"
    )


@pytest.mark.parametrize("offset", [COUNT, 0, 10_000])
def test_an_offset_without_a_record_is_refused(offset: int, tmp_path: Path) -> None:
    write(tmp_path / "weight.bin", "float32")
    with pytest.raises(BundleError, match=f"^`weight.bin` at offset {offset} "):
        WeightFile(tmp_path / "weight.bin").read(offset, "float32", (COUNT,))
