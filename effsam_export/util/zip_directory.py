"""Check a zip file's directory before `zipfile` reads it: its size, and that no members overlap."""

from __future__ import annotations

import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path

DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    RuntimeError,
    OverflowError,
    ValueError,
    struct.error,
)
"""What `zipfile` raises on damaged fields and names, unknown methods and encrypted members."""
MAX_DIRECTORY_BYTES = 1_000_000
"""`zipfile` takes about ten times this memory. An entry has 46 bytes and its name."""
# Source: PKZIP APPNOTE 4.3.14 to 4.3.16.
END = struct.Struct("<4s4H2LH")
END64_LOCATOR = struct.Struct("<4sLQL")
END64 = struct.Struct("<4sQ2H2L4Q")
LOCAL_HEADER_BYTES = 30


def check_directory(path: Path) -> None:
    """Refuse a zip file whose directory is too large to read.

    Raises:
        zipfile.BadZipFile: There is no directory, or it has more than `MAX_DIRECTORY_BYTES`.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        size = _directory_bytes(file)
    if size > MAX_DIRECTORY_BYTES:
        raise zipfile.BadZipFile(f"its directory has {size} bytes")


def _directory_bytes(file: BinaryIO) -> int:
    length = file.seek(0, 2)
    # The comment of the end record has at most 65 535 bytes.
    start = max(0, length - END.size - 0xFFFF)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < END.size:
        raise zipfile.BadZipFile("it is not a zip file, or its end is missing")
    size = int(END.unpack_from(tail, at)[5])
    place = start + at - END64_LOCATOR.size
    if place < 0:
        return size
    locator = _at(file, place, END64_LOCATOR.size)
    if not locator.startswith(b"PK\x06\x07"):
        return size
    # The record lies before its locator, where some versions of Python look for it, and has to be
    # where the locator says, which is where the others look.
    found = [
        int(END64.unpack(record)[8])
        for offset in (place - END64.size, END64_LOCATOR.unpack(locator)[2])
        if 0 <= offset < length and (record := _at(file, offset, END64.size))[:4] == b"PK\x06\x06"
    ]
    return max(found, default=size)


def _at(file: BinaryIO, offset: int, count: int) -> bytes:
    """Return bytes at a place in a file, zeros after its end."""
    file.seek(offset)
    return file.read(count).ljust(count, b"\0")


def overlaps(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of members that begin before the one before them ends.

    A member takes at least its header, its name and its stored bytes, and ends before the
    directory. So what all members hold together cannot exceed the size of the file.
    """
    entries = sorted(archive.infolist(), key=lambda e: e.header_offset)
    ends = [*(e.header_offset for e in entries[1:]), archive.start_dir]
    return [
        e.filename
        for e, end in zip(entries, ends, strict=False)
        if e.header_offset + LOCAL_HEADER_BYTES + len(e.orig_filename) + e.compress_size > end
    ]
