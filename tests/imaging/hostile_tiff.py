"""Damaged and hostile TIFF directories: TIFF files, and the EXIF data of other formats.

A generator takes a `random.Random` and returns the bytes of one case.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

ORIENTATION = 0x0112
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""TIFF type -> bytes of a value."""
ABSURD = (0, 1, 2, 255, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
TAGS = (254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 282, 284, 305, 317, 320, 322)
MORE_TAGS = (323, 324, 325, 330, 338, 339, 347, 530, 700, 33723, 34377, 34665, 34675, 34853, 37500)

Entry = tuple[int, int, int, bytes]
"""Tag, type, count, and the value's bytes: in place up to 4, else behind the directory."""


def short(tag: int, value: int) -> Entry:
    return tag, 3, 1, struct.pack("<H", value & 0xFFFF)


def long(tag: int, *values: int) -> Entry:
    return tag, 4, len(values), struct.pack(f"<{len(values)}L", *(v & 0xFFFFFFFF for v in values))


def directory(entries: list[Entry], at: int, following: int = 0) -> bytes:
    """Return a little-endian directory that begins at `at`, with its values behind it."""
    head = struct.pack("<H", len(entries))
    behind = b""
    end = at + 2 + 12 * len(entries) + 4
    for tag, kind, count, value in entries:
        if len(value) > 4:
            place = struct.pack("<L", end + len(behind))
            behind += value + bytes(len(value) % 2)
        else:
            place = value.ljust(4, b"\0")
        head += struct.pack("<HHL", tag, kind, count & 0xFFFFFFFF) + place
    return head + struct.pack("<L", following & 0xFFFFFFFF) + behind


def whole(entries: list[Entry], data: bytes = b"", following: int = 0) -> bytes:
    """Return a TIFF file: header, `data` at 8, and then one directory."""
    at = 8 + len(data) + len(data) % 2
    return b"II*\0" + struct.pack("<L", at) + data.ljust(at - 8, b"\0") + directory(
        entries, at, following
    )  # fmt: skip


def random_entry(random: Random, tag: int | None = None) -> Entry:
    """An entry with a true or absurd type, count and value."""
    kind = random.choice([*SIZES, 0, 14, 99, 65535])
    count = random.choice([0, 1, 1, 1, 2, 3, 8, random.choice(ABSURD)])
    size = min(SIZES.get(kind, 1) * count, 200)
    value = random.choice([random.randbytes(size), bytes(size), b"\xff" * size])
    if random.random() < 0.2:
        value = random.randbytes(random.randint(0, 20))
    return tag or random.choice(TAGS + MORE_TAGS), kind, count, value


def exif(random: Random) -> bytes:
    """EXIF data: a rotation of any type, pointers to anything, cycles, truncation."""
    entries = [random_entry(random, ORIENTATION)] if random.random() < 0.8 else []
    entries += [random_entry(random) for _ in range(random.randint(0, 6))]
    for pointer in (34665, 34853, 330):
        if random.random() < 0.3:
            entries.append(long(pointer, random.choice([0, 8, 10, 26, *ABSURD])))
    if random.random() < 0.5:
        entries.sort(key=lambda entry: entry[0])
    data = whole(entries, following=random.choice([0, 8, 8, 9, *ABSURD]))
    if random.random() < 0.2:
        data = data.replace(b"II*\0", random.choice([b"MM\0*", b"II+\0", b"MM*\0", b"\0\0\0\0"]))
    if random.random() < 0.3:
        data = data[: random.randint(0, len(data))]
    return data


def honest(width: int, height: int, compression: int, data: bytes) -> list[Entry]:
    """The entries of a grey 8-bit image of one strip, whose data is at 8."""
    return [
        long(256, width),
        long(257, height),
        short(258, 8),
        short(259, compression),
        short(262, 1),
        long(273, 8),
        short(277, 1),
        long(278, height),
        long(279, len(data)),
    ]


def absurd(random: Random) -> bytes:
    """An honest file some of whose entries have absurd types, counts and values, or are missing."""
    side = random.randint(1, 40)
    compression = random.choice([1, 1, 5, 7, 8, 32773, 32946, 34925, 50000, 2, 3, 4, 6, 9, 0])
    pixels = random.randbytes(side * side)
    data = zlib.compress(pixels) if compression in (8, 32946) else pixels
    entries = honest(side, side, compression, data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(entries))
        match random.randrange(5):
            case 0:
                entries[at] = random_entry(random, entries[at][0])
            case 1:
                tag, kind, _, value = entries[at]
                entries[at] = (tag, kind, random.choice(ABSURD), value)
            case 2:
                entries[at] = long(entries[at][0], random.choice(ABSURD))
            case 3:
                entries.append(random_entry(random))
            case _:
                del entries[at]
        if not entries:
            break
    return whole(entries, data, following=random.choice([0, 8, len(data) + 8, *ABSURD]))


def tiles(random: Random) -> bytes:
    """A small image in one deflated tile, which may be much larger than the image."""
    side = random.randint(1, 64)
    width, height = (random.choice([16, 64, 4096, 20_000, 2**16, 2**31]) for _ in range(2))
    # 4 MB of zeros become 4 kB here; the decoder wants as many bytes as the tile has.
    data = zlib.compress(bytes(min(width * height, 4_000_000)))
    entries = [e for e in honest(side, side, 8, data) if e[0] not in (273, 278, 279)]
    entries += [long(322, width), long(323, height), long(324, 8), long(325, len(data))]
    return whole(entries, data)


def directories(random: Random) -> bytes:
    """Thousands of directories, each of them a frame, that end, or return to an earlier one."""
    count = random.choice([2, 10, 3000])
    data = bytes(64)
    entries = honest(8, 8, 1, data)
    size = len(directory(entries, 0))
    parts = [b"II*\0" + struct.pack("<L", 72) + data]
    for i in range(count):
        at = 72 + size * i
        last = random.choice([0, 72, 72, at, 2**32 - 1])
        parts.append(directory(entries, at, at + size if i < count - 1 else last))
    return b"".join(parts)


def many_values(random: Random) -> bytes:
    """Tags with tens of thousands of values, several of them over the same bytes of the file."""
    count = random.randint(1000, 40_000)
    data = random.randbytes(8 * count)
    side = 8
    entries = honest(side, side, 1, data)
    for tag in random.sample([258, 273, 279, 282, 283, 338, 339, 530, 33723, 34377], 4):
        kind = random.choice([3, 4, 5, 10, 12, 16])
        entries = [e for e in entries if e[0] != tag]
        entries.append((tag, kind, count, struct.pack("<L", 8)))
    return whole(entries, data)
