"""Generators of hostile packed bundles: directories that lie, names, methods and damaged bytes."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from typing import TYPE_CHECKING

from tests.bundle.hostile_manifests import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    Kind = Callable[[Random, bytes], bytes]

EPOCH = (1980, 1, 1, 0, 0, 0)
DIRECTORY = b"PK\x01\x02"
FIELDS = {6: "<H", 8: "<H", 10: "<H", 16: "<I", 20: "<I", 24: "<I", 28: "<H", 30: "<H"} | {
    32: "<H",
    34: "<H",
    38: "<I",
    42: "<I",
}
"""Offsets in an entry of the directory: version, flags, method, CRC, sizes, lengths, place."""
NUMBERS = (0, 1, 8, 9, 12, 14, 93, 99, 0x800, 0xFFFF, 0x7FFFFFFF, 0xFFFF0000, 0xFFFFFFFF)


def entries_of(packed: bytes) -> list[tuple[zipfile.ZipInfo, bytes]]:
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        return [(e, archive.read(e)) for e in archive.infolist()]


def zipped(entries: list[tuple[zipfile.ZipInfo, bytes]]) -> bytes:
    made = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w") as sink:
        warnings.simplefilter("ignore")  # of names that occur twice
        for entry, content in entries:
            sink.writestr(entry, content, entry.compress_type)
    return made.getvalue()


def info(name: str, mode: int = 0o100644, method: int = zipfile.ZIP_STORED) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo("x", EPOCH)
    made.filename, made.external_attr, made.compress_type = name, mode << 16, method
    return made


def names(random: Random, packed: bytes) -> bytes:
    """One more entry, or one under another name, that no bundle has."""
    entries = entries_of(packed)
    name = random.choice([n for n in NAMES if len(n) < 65_000])
    if random.random() < 0.5:
        entries.insert(random.randint(0, len(entries)), (info(name), b"x" * random.randint(0, 9)))
    else:
        at = random.randrange(len(entries))
        entries[at] = (info(name), entries[at][1])
    return zipped(entries)


def kinds_of_file(random: Random, packed: bytes) -> bytes:
    """A link, folder, device or compressed entry in place of a file, or beside it."""
    entries = entries_of(packed)
    at = random.randrange(len(entries))
    name, content = entries[at][0].filename, entries[at][1]
    mode = random.choice((0o120777, 0o040755, 0o010644, 0o020666, 0o060666, 0o140777, 0o100644))
    method = random.choice((0, 0, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    content = random.choice((content, b"/etc/passwd", b"\0" * random.randint(1, 3_000_000)))
    changed = (info(name, mode, method), content)
    entries[at : at + random.randint(0, 1)] = [changed]
    return zipped(entries)


def overlapping(random: Random, packed: bytes) -> bytes:
    """Many entries of the directory that share bytes of the file, or claim more than it has."""
    data = bytearray(packed)
    at = places(data)
    first = struct.unpack_from("<I", data, random.choice(at) + 42)[0]
    size = random.choice((len(packed) // 2, len(packed), 1 << 31, 0xFFFFFFFF))
    for place in random.sample(at, random.randint(1, len(at))):
        match random.randrange(3):
            case 0:
                struct.pack_into("<I", data, place + 42, first)
            case 1:
                struct.pack_into("<2I", data, place + 20, size, size)
            case _:
                struct.pack_into("<I", data, place + 42, random.randrange(len(packed)))
    return bytes(data)


def fields(random: Random, packed: bytes) -> bytes:
    """Other values in the fields of the directory, of local headers or of the end record."""
    data = bytearray(packed)
    for _ in range(random.randint(1, 4)):
        if random.random() < 0.7:
            place, (offset, form) = random.choice(places(data)), random.choice(list(FIELDS.items()))
        else:
            signature, count = random.choice(((b"PK\x03\x04", 28), (b"PK\x05\x06", 20)))
            place, form = data.rfind(signature), random.choice(("<H", "<I"))
            offset = random.randint(4, count - 4)
        value = random.choice(NUMBERS) & (0xFFFF if form == "<H" else 0xFFFFFFFF)
        struct.pack_into(form, data, place + offset, value)
    return bytes(data)


def zip64(random: Random, packed: bytes) -> bytes:
    """A ZIP64 record with sizes and places of its own, and a comment."""
    end = packed.rfind(b"PK\x05\x06")
    size, place = struct.unpack_from("<2I", packed, end + 12)
    huge = random.choice((size, 0, 1, 1 << 33, (1 << 63) - 1, (1 << 64) - 1))
    offset = random.choice((place, 0, 1 << 33, (1 << 64) - 1))
    count = random.choice((1, 0, 1 << 40))
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, huge, offset)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, random.choice((end, 0, 1 << 60)), 1)
    comment = random.choice((b"", b"x", b"PK\5\6" * 9, b"\0" * 65_535))
    tail = bytearray(packed[end : end + 22])
    struct.pack_into("<H", tail, 20, len(comment))
    return packed[:end] + record + locator + bytes(tail) + comment


def damaged(random: Random, packed: bytes) -> bytes:
    """Bytes that are flipped, cut off, moved, or put before or behind."""
    data = bytearray(packed)
    match random.randrange(5):
        case 0:
            for _ in range(random.randint(1, 20)):
                data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        case 1:
            del data[random.randrange(len(data)) :]
        case 2:
            place = random.randrange(len(data))
            del data[place : place + random.randint(1, 200)]
        case 3:
            data[:0] = bytes(random.randrange(256) for _ in range(random.randint(1, 100)))
        case _:
            data += bytes(random.randrange(256) for _ in range(random.randint(1, 100)))
    return bytes(data)


def many(random: Random, packed: bytes) -> bytes:
    """Tens of thousands of entries, by a directory that repeats itself."""
    end = packed.rfind(b"PK\x05\x06")
    size, place = map(int, struct.unpack_from("<2I", packed, end + 12))
    times = random.choice((2, 100, 2000, 20_000))
    directory = packed[place : place + size] * min(times, 8_000_000 // size)
    tail = bytearray(packed[end:])
    struct.pack_into("<2H2I", tail, 8, 0xFFFE, 0xFFFE, len(directory), place)
    return packed[:place] + directory + bytes(tail)


def places(data: bytes | bytearray) -> list[int]:
    """Where the entries of the directory begin."""
    found, at = [], data.find(DIRECTORY)
    while at >= 0:
        found.append(at)
        at = data.find(DIRECTORY, at + 46)
    return found


KINDS: dict[str, Kind] = {
    "names": names,
    "kinds of file": kinds_of_file,
    "overlapping": overlapping,
    "fields": fields,
    "zip64": zip64,
    "damaged": damaged,
    "many": many,
}
