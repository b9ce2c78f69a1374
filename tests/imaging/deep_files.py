"""PNG and TIFF files of every depth and order of bytes, which Pillow itself cannot write."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tests.imaging.hostile_images import png_chunk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

ADAM7 = (
    *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)),
    *((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
)
"""First row and column, and steps, of each pass of an interlaced PNG file."""
ORDERS: tuple[Literal["<", ">"], ...] = ("<", ">")
COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
"""Channels -> colour type of PNG."""


def png16(
    values: NDArray[Any], *chunks: bytes, interlaced: bool = False, filter_type: int = 0
) -> bytes:
    """A PNG file of HxWxC, 0 to 65535, with filter 0 (none) or 1 (the pixel to the left)."""
    height, width, channels = values.shape
    passes = [values]
    if interlaced:
        passes = [values[y::step_y, x::step_x] for y, x, step_y, step_x in ADAM7]
    lines = b""
    for part in passes:
        for row in part if part.size else ():
            data = np.frombuffer(row.astype(">u2").tobytes(), np.uint8)
            if filter_type == 1:
                left = np.concatenate([np.zeros(2 * channels, np.uint8), data[: -2 * channels]])
                data = data - left
            lines += bytes([filter_type]) + data.tobytes()
    head = struct.pack(">LLBBBBB", width, height, 16, COLOURS[channels], 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", head)
        + b"".join(chunks)
        + png_chunk(b"IDAT", zlib.compress(lines))
        + png_chunk(b"IEND", b"")
    )


def tiff(
    *pages: NDArray[Any],
    order: Literal["<", ">"] = "<",
    deflated: bool = False,
    photometric: int | None = None,
    alpha: int | None = None,
    planar: bool = False,
    more: Mapping[int, int] | None = None,
) -> bytes:
    """A TIFF file of one strip a page, HxWxC.

    Args:
        pages: Numbers of any type.
        order: `<` for little-endian, `>` for big-endian.
        deflated: Compress the strip.
        photometric: 0 white is zero, 1 black is zero, 2 RGB, 5 CMYK.
        alpha: 0 unspecified, 1 multiplied with the colours, 2 not multiplied.
        planar: Store each channel by itself. Only for files that are refused.
        more: Tag -> value of further tags of type SHORT.
    """
    content = b"II*\0\0\0\0\0" if order == "<" else b"MM\0*\0\0\0\0"
    link = 4
    for values in pages:
        height, width, channels = values.shape
        data = values.astype(values.dtype.newbyteorder(order)).tobytes()
        data = zlib.compress(data) if deflated else data
        at = len(content)
        content += data + bytes(len(data) % 2)
        bits = 8 * values.dtype.itemsize
        kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
        entries: dict[int, tuple[int, tuple[int, ...]]] = {
            256: (4, (width,)),
            257: (4, (height,)),
            258: (3, (bits,) * channels),
            259: (3, (8 if deflated else 1,)),
            262: (3, (photometric if photometric is not None else 2 if channels > 2 else 1,)),
            273: (4, (at,)),
            277: (3, (channels,)),
            278: (4, (height,)),
            279: (4, (len(data),)),
            284: (3, (2 if planar else 1,)),
            339: (3, (kind,) * channels),
            **({} if alpha is None else {338: (3, (alpha,))}),
            **{tag: (3, (value,)) for tag, value in (more or {}).items()},
        }
        here = len(content)
        content = content[:link] + struct.pack(f"{order}L", here) + content[link + 4 :]
        content += directory(entries, here, order)
        link = here + 2 + 12 * len(entries)
    return content


def directory(entries: Mapping[int, tuple[int, tuple[int, ...]]], at: int, order: str) -> bytes:
    """A TIFF directory of SHORT (3) and LONG (4) values, without a next one."""
    head, behind = struct.pack(f"{order}H", len(entries)), b""
    end = at + 2 + 12 * len(entries) + 4
    for tag, (kind, values) in sorted(entries.items()):
        data = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'L'}", *values)
        if len(data) > 4:
            place = struct.pack(f"{order}L", end + len(behind))
            behind += data + bytes(len(data) % 2)
        else:
            place = data.ljust(4, b"\0")
        head += struct.pack(f"{order}HHL", tag, kind, len(values)) + place
    return head + bytes(4) + behind


def of_every_kind() -> Iterator[bytes]:
    """Yield a small file of each kind."""
    grey = np.arange(0, 4096, 65, dtype=np.uint16)[:63].reshape(7, 9, 1)
    for values in (np.concatenate([grey] * channels, axis=-1) for channels in (1, 2, 3, 4)):
        yield png16(values)
        yield png16(values, interlaced=True)
    for order in ORDERS:
        for deflated in (False, True):
            for dtype in (np.uint16, np.int16, np.int32, np.uint32, np.float32):
                yield tiff(grey.astype(dtype), order=order, deflated=deflated)
            yield tiff(np.concatenate([grey] * 3, axis=-1), order=order, deflated=deflated)
            yield tiff(np.concatenate([grey] * 4, axis=-1), order=order, alpha=1)
    yield tiff(grey, grey)
