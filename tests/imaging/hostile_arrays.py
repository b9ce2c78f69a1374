"""Generators of hostile `.npy` and `.npz` files: headers that lie, other dtypes, bad values."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    Kind = Callable[[Random, int], bytes]

DTYPES = (
    *("<f4", "<f8", ">f4", "<f2", "<i8", "|u1", "|b1", "<c8", "<c16", "<M8[s]", "<m8[D]"),
    *(
        "|O",
        "<U5",
        "|S3",
        "|V8",
        "<f16",
        "[('a', '<f4')]",
        "('<f4', (1000000,))",
        "x",
        "f4,f4",
        "<f4" * 500,
    ),
)
SHAPES = (
    *("()", "(0,)", "(1 << 62,)", "(4611686018427387904,)", "(-1,)", "(1.5,)", "('x',)", "[3, 3]"),
    *("(99999999, 99999999)", "(0, 99999999999999)", "(" + "1," * 100 + ")", "None", "(True,)"),
    *("(" * 3000 + ")" * 3000, "(" + "9" * 5000 + ",)", "{}", "__import__('os').system('true')"),
)


def npy(header: bytes, content: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    form = "<H" if version == (1, 0) else "<I"
    size = len(header) & (0xFFFF if form == "<H" else 0xFFFFFFFF)
    return b"\x93NUMPY" + bytes(version) + struct.pack(form, size) + header + content


def header_of(dtype: str, shape: str, order: str = "False") -> bytes:
    shown = dtype if dtype.startswith(("[", "(")) else repr(dtype)
    return f"{{'descr': {shown}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()


def headers(random: Random, side: int) -> bytes:
    """A header that declares another shape or dtype than follows."""
    shape = random.choice((*SHAPES, f"(1, {side}, {side})", f"({side}, {side})"))
    header = header_of(random.choice(DTYPES), shape, random.choice(("False", "True", "2", "None")))
    if random.random() < 0.2:
        place = random.randrange(len(header))
        header = header[:place] + bytes([random.randrange(256)]) + header[place + 1 :]
    version = random.choice(((1, 0), (1, 0), (2, 0), (3, 0), (9, 9)))
    return npy(header, bytes(random.choice((0, 4, side * side * 4))), version)


def values(random: Random, side: int) -> bytes:
    """An array of the right shape whose values are not finite FP32 numbers."""
    dtype = random.choice(
        ("<f8", "<f4", "<f2", "<i8", "<u8", "|b1", "<c16", "<M8[s]", "<f16", "|S8")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array: Any = np.zeros((random.choice((1, 3)), side, side), dtype)
        value = random.choice((np.nan, np.inf, -np.inf, 1e39, 1e300, -3.5e38, 2**62, 1.0))
        with np.errstate(all="ignore"):
            try:
                array[0, 0, random.randrange(side)] = value
            except (ValueError, TypeError, OverflowError):
                array[0, 0, 0] = 1
    made = io.BytesIO()
    np.save(made, array)
    return made.getvalue()


def damaged(random: Random, side: int) -> bytes:
    """A file cut off, longer, or with other bytes."""
    made = io.BytesIO()
    np.save(made, np.ones((1, side, side), np.float32))
    data = bytearray(made.getvalue())
    match random.randrange(3):
        case 0:
            del data[random.randrange(len(data)) :]
        case 1:
            data += bytes(random.randint(1, 100))
        case _:
            for _ in range(random.randint(1, 5)):
                data[random.randrange(130)] = random.randrange(256)
    return bytes(data)


KINDS: dict[str, Kind] = {"headers": headers, "values": values, "damaged": damaged}


def archived(random: Random, content: bytes) -> bytes:
    """A `.npz` file of one array, whose directory may lie."""
    made = io.BytesIO()
    method = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    name = random.choice(("low_res_masks.npy",) * 8 + ("low_res_masks", "masks.npy"))
    with zipfile.ZipFile(made, "w", method) as archive:
        archive.writestr(name, content + bytes(random.choice((0, 0, 0, 2_000_000))))
    data = bytearray(made.getvalue())
    at = data.rfind(b"PK\x01\x02")
    match random.randrange(6):
        case 0:
            # Encrypted, patched, or another method.
            struct.pack_into(
                "<2H", data, at + 8, random.choice((0, 1, 0x20, 0x40)), random.randrange(99)
            )
        case 1:
            size = random.choice((0, 1, 1000, 0x7FFFFFFF, 0xFFFFFFFF))
            struct.pack_into("<I", data, at + random.choice((20, 24, 42)), size)
        case 2:
            for _ in range(random.randint(1, 9)):
                data[random.randrange(min(len(data), 4000))] ^= 1 << random.randrange(8)
        case 3:
            del data[random.randrange(len(data)) :]
        case _:
            pass
    return bytes(data)
