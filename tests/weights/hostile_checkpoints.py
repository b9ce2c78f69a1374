"""Checkpoints that attack their reader, by kind: a random generator in, the bytes of a file out.

A file of the kinds in `REFUSED` has to be refused. One of the kinds in `READABLE` may be read: some
of the damage is in places that do not matter.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    Kind = Callable[[Random], bytes]

MAGIC = 0x1950A86A20F9469CFC6C
CALLS = (
    *("os system", "posix system", "builtins eval", "builtins exec", "builtins getattr"),
    *("subprocess Popen", "torch load", "torch.hub load", "torch._utils _import_dotted_name"),
    *("builtins __import__", "nt system", "shutil rmtree", "pathlib Path.touch", "io open"),
    *("torch.serialization load", "numpy load", "importlib import_module", "webbrowser open"),
)
REAL = (
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "torch Tensor"),
    *("torch FloatStorage", "collections OrderedDict", "torch Size", "torch float32", "torch nn"),
)
ATTRIBUTES = (
    *(
        "__name__",
        "__defaults__",
        "__code__",
        "__class__",
        "__dict__",
        "dump_patches",
        "__module__",
    ),
    *("__reduce__", "__getattr__", "dtype", "__new__", "__globals__"),
)


# ------------------------------------------------------------------ pieces of pickles


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def integer(value: int) -> bytes:
    raw = value.to_bytes(max(1, (value.bit_length() + 8) // 8), "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def tuple_of(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(integer, values)) + b"t"


def named(name: str) -> bytes:
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


def storage(kind: str = "Float", key: str = "0", count: int = 4) -> bytes:
    parts = text("storage") + named(f"torch {kind}Storage") + text(key) + text("cpu")
    return b"(" + parts + integer(count) + b"tQ"


def tensor(
    shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, kind: str = "Float"
) -> bytes:
    hooks = named("collections OrderedDict") + b")R"
    args = storage(kind) + integer(offset) + tuple_of(shape) + tuple_of(stride) + b"\x89" + hooks
    return named("torch._utils _rebuild_tensor_v2") + b"(" + args + b"tR"


def state(*entries: tuple[str, bytes]) -> bytes:
    return b"\x80\x02}(" + b"".join(text(n) + v for n, v in entries) + b"u."


# ------------------------------------------------------------------ containers


def zipped(
    program: bytes, storages: dict[str, bytes] | None = None, *, deflate: bool = False
) -> bytes:
    content = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
    with zipfile.ZipFile(content, "w", method) as archive:
        archive.writestr("arc/data.pkl", program)
        archive.writestr("arc/byteorder", b"little")
        archive.writestr("arc/version", b"3\n")
        for key, value in (storages or {}).items():
            archive.writestr(f"arc/data/{key}", value)
    return content.getvalue()


def legacy(program: bytes, keys: tuple[object, ...] = (), tail: bytes = b"") -> bytes:
    sizes = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"long": 4}}
    head = pickle.dumps(MAGIC, 2) + pickle.dumps(1001, 2) + pickle.dumps(sizes, 2)
    return head + program + pickle.dumps(list(keys), 2) + tail


def either(random: Random, program: bytes) -> bytes:
    """The pickle in one of the two formats."""
    return zipped(program, {"0": bytes(16)}) if random.random() < 0.5 else legacy(program)


def honest(random: Random) -> bytes:
    """A small state dict in one of the formats that are read."""
    program = state(("a.weight", tensor((2, 2), (2, 1))), ("a.bias", tensor((4,), (1,))))
    numbers = struct.pack("<4f", *(random.uniform(-1, 1) for _ in range(4)))
    form = random.choice(("zip", "deflated", "legacy", "safetensors", "archived"))
    if form == "legacy":
        return legacy(program, ("0",), struct.pack("<q", 4) + numbers)
    if form == "safetensors":
        header = b'{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}'
        return struct.pack("<Q", len(header)) + header + numbers
    content = zipped(program, {"0": numbers}, deflate=form == "deflated")
    if form != "archived":
        return content
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/weights.pt", content)
    return outer.getvalue()


# ------------------------------------------------------------------ kinds


def calls(random: Random) -> bytes:
    """A call of a function, by each operation that makes one."""
    name = named(random.choice(CALLS))
    argument = text(random.choice(("touch OWNED", "open('OWNED', 'w')", "OWNED")))
    made = random.choice(
        (
            name + argument + b"\x85R",
            name + argument + b"\x85\x81",
            name + argument + b"\x85}\x92",
            b"(" + name + argument + b"o",
            b"(" + argument + b"i" + name[1:],
            name + b")R" + argument + b"b",
        )
    )
    return either(random, random.choice((b"\x80\x02" + made + b".", state(("weight", made)))))


def poisons(random: Random) -> bytes:
    """BUILD sets attributes of functions that the reader could hand out."""
    name = named(random.choice(REAL))
    attribute = text(random.choice(ATTRIBUTES)) + random.choice((b"N", b"\x88", text("x"), b")"))
    both = random.choice((b"}(" + attribute + b"u", b"N}(" + attribute + b"u\x86"))
    program = b"\x80\x02" + name + both + b"bq\x000" + b"(" + text("module") + b"h\x00"
    return either(random, program + text("x\nOWNED\n") + text("source") + b"tQ.")


def references(random: Random) -> bytes:
    """Persistent ids of other kinds, or of storages with wrong parts."""
    pid = random.choice(
        (
            b"(" + text("module") + text("a") + text("b") + b"tQ",
            b"(" + text("storage") + b"N" * random.randrange(5) + b"tQ",
            text("storage") + b"Q",
            b"Pstorage\n",
            b"(" + text("pickle") + text("x") * 4 + b"tQ",
            integer(7) + b"Q",
        )
    )
    return either(random, state(("weight", pid)))


def memos(random: Random) -> bytes:
    """Indices of the memo, which `pickle` makes a table for."""
    index = struct.pack("<I", random.randrange(1 << 28, 1 << 32))
    put = random.choice((b"r" + index, b"p" + str(random.getrandbits(200)).encode() + b"\n"))
    get = random.choice((b"", b"j" + struct.pack("<I", random.getrandbits(31)), b"h\x09"))
    return either(random, b"\x80\x02cm\nM\n" + put + get + b".")


def modules(random: Random) -> bytes:
    """Modules that hold the one below several times, or themselves, or are nested deeply."""
    times = random.choice((1, 2, 5))
    depth = random.randrange(70 if times == 1 else 30, 120)
    program = b"\x80\x02cm\nM\n)\x81q\x00"
    if random.random() < 0.3:
        program += b"}" + text("_modules") + b"}(" + (text("a") + b"h\x00") * times + b"usb"
    for i in range(depth):
        below, here = bytes([i]), bytes([i + 1])
        held = b"".join(text(f"m{n}") + b"h" + below for n in range(times))
        program += b"cm\nM\n)\x81q" + here + b"}" + text("_modules") + b"}(" + held + b"usb"
    return either(random, program + b".")


def shapes(random: Random) -> bytes:
    """Shapes, strides and offsets that do not fit into the storage of four numbers."""
    side = random.choice((1000, 40_000, 1 << 31, 1 << 62))
    shape, stride = random.choice(
        (
            ((side, side), (0, 0)),
            ((side,), (1,)),
            ((2, 2), (side, 1)),
            ((-side,), (1,)),
            ((2,), (-side,)),
            ((1,) * 40, (1,) * 40),
            ((2, 2), (1,)),
            ((side, 0, side), (side, 1, 1)),
        )
    )
    offset = random.choice((0, 0, 0, -1, side, 1 << 63))
    if 0 in shape:
        shape = (1 << 62, 0, 1 << 62)
    kind = random.choice(("Float", "Half", "Double"))
    program = state(("weight", tensor(shape, stride, offset, kind)))
    if random.random() < 0.5:
        return zipped(program, {"0": bytes(16)})
    count = random.choice((4, 0, -1, 1 << 40, 1 << 62))
    return legacy(program, ("0",), struct.pack("<q", count) + bytes(16))


def bombs(random: Random) -> bytes:
    """Storages and inner files that expand to far more than the file."""
    zeros = bytes(random.randrange(2_000_000, 8_000_000))
    program = state(("weight", tensor((4,), (1,))))
    inner = zipped(program, {"0": zeros}, deflate=random.random() < 0.7)
    form = random.randrange(3)
    if form == 0:
        return zipped(program, {"0": zeros}, deflate=True)
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("weights.pt", inner if form == 1 else zeros)
    return outer.getvalue()


def nested(random: Random) -> bytes:
    """Values in values: keys whose hash takes forever, lists and tuples of great depth."""
    depth = random.randrange(200, 3000)
    value = random.choice((b")", b"]"))
    body = {
        "keys": b")q\x00" + b"0h\x00h\x00\x86q\x00" * depth + b"0}h\x00Ns",
        "sets": b")q\x00" + b"0h\x00h\x00\x86q\x00" * depth + b"0(h\x00\x91",
        "tuples": value + b"\x85" * depth,
        "lists": b"]" * depth + b"a" * (depth - 1),
        "calls": b"cm\nM\n" + b")R" * depth,
    }[random.choice(("keys", "sets", "tuples", "lists", "calls"))]
    return either(random, random.choice((b"\x80\x04" + body + b".", state(("weight", body)))))


def names(random: Random) -> bytes:
    """Names with control characters, or of great length."""
    name = random.choice(
        ("\x1b[2J\x1b]0;owned\x07", "a\r\nerror: all is well", "\ud800", "\u202e" * 9, "n" * 90_000)
    )
    kind = random.choice(("QInt8", "ComplexFloat", name.encode("utf-8", "replace").decode()))
    kind = kind.replace("\n", "").replace("\r", "")
    return either(random, state((name, tensor((9, 9), (9, 1), 0, random.choice(("Float", kind))))))


def archives(random: Random) -> bytes:
    """Zip archives with members that overlap, repeat, or are packed or named in odd ways."""
    program = state(("weight", tensor((4,), (1,))))
    content = io.BytesIO()
    form = random.choice(("lzma", "bzip2", "twice", "two pickles", "script", "overlap"))
    with zipfile.ZipFile(content, "w") as archive:
        method = {"lzma": zipfile.ZIP_LZMA, "bzip2": zipfile.ZIP_BZIP2}.get(
            form, zipfile.ZIP_STORED
        )
        archive.writestr("arc/data.pkl", program, method)
        archive.writestr("arc/data/0", bytes(16 if form != "overlap" else 4096))
        if form == "two pickles":
            archive.writestr("other/data.pkl", program)
        if form == "script":
            archive.writestr("arc/constants.pkl", program)
    raw = bytearray(content.getvalue())
    if form in ("twice", "overlap"):
        start, size = raw.rfind(b"PK\x01\x02"), raw.rfind(b"PK\x05\x06") - raw.rfind(b"PK\x01\x02")
        count = 1 if form == "twice" else random.randrange(50, 500)
        entry, end = bytes(raw[start : start + size]), bytearray(raw[start + size :])
        first = raw.find(b"PK\x01\x02")
        total = struct.unpack_from("<H", end, 10)[0] + count
        struct.pack_into("<HHI", end, 8, total, total, start + size * (count + 1) - first)
        copies = entry * count
        if form == "overlap":
            copies = b"".join(
                entry[:46] + f"arc/data/{n:01d}"[-10:].encode()[:10] + entry[56:]
                for n in range(count)
            )
        raw = raw[: start + size] + copies + end
    return bytes(raw)


def damaged(random: Random) -> bytes:
    """An honest file with changed, missing, added or repeated bytes."""
    content = bytearray(honest(random))
    for _ in range(random.choice((1, 1, 2, 8))):
        place = random.randrange(len(content)) if content else 0
        change = random.randrange(5)
        if change == 0:
            content[place : place + 1] = bytes([random.randrange(256)])
        elif change == 1:
            del content[place : place + random.choice((1, 4, 100))]
        elif change == 2:
            content[place:place] = random.randbytes(random.choice((1, 4)))
        elif change == 3:
            content[place : place + 4] = struct.pack("<I", random.getrandbits(32))
        else:
            content = content[:place]
    return bytes(content)


def noise(random: Random) -> bytes:
    """Random operations of pickles, and other beginnings with noise after them."""
    head = random.choice((b"", b"PK\x03\x04", b"\x80\x02", pickle.dumps(MAGIC, 2), b"\x1f\x8b"))
    operations = b"()NKMX}]tueasRbcq\x80\x81\x85\x86\x88\x8c\x93\x94Q.012h"
    rest = bytes(random.choice(operations) for _ in range(random.randrange(200)))
    return either(random, rest) if random.random() < 0.5 else head + zlib.compress(rest) + rest


REFUSED: dict[str, Kind] = {
    "calls": calls,
    "poisons": poisons,
    "references": references,
    "memos": memos,
    "modules": modules,
    "shapes": shapes,
    "bombs": bombs,
    "names": names,
    "archives": archives,
}
READABLE: dict[str, Kind] = {"nested": nested, "damaged": damaged, "noise": noise}
KINDS = {**REFUSED, **READABLE}
