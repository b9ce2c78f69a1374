"""Damaged and hostile image files, by kind.

`KINDS` maps a kind to a generator, which takes a `random.Random` and returns the bytes of one case.
Loading a case ends in pixels or in one `ImageError`, in seconds and bounded memory.
"""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tests.imaging import hostile_tiff
from tests.imaging.hostile_tiff import ABSURD

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

SIGNATURES = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n",
    b"\xc5\xd0\xd3\xc6" + bytes(28),
    b"%PDF-1.4\n",
    b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    b"/* XPM */\nstatic char *a[] = {\n",
    b"#define a_width 9999\n#define a_height 9999\nstatic char a_bits[] = {\n",
    b"P6 99999 99999 255\n",
    b"P1 2 2\n0 1 1 0",
    b"Pf\n9 9\n-1.0\n",
    b"8BPS\0\1",
    b"\0\0\1\0\1\0",
    b"\0\0\0\x0cjP  \r\n\x87\n",
    b"\0\0\0\x20ftypheic\0\0\0\0mif1heic",
    b"\0\0\0\x20ftypavif\0\0\0\0avifmif1",
    b"icns\0\0\1\0",
    b"SIMPLE  =                    T",
    b"\xd7\xcd\xc6\x9a" + bytes(40),
    b"\x01\0\0\0" + bytes(36) + b" EMF",
    b"DDS |\0\0\0",
    b"\x0a\x05\x01\x08",
    b"qoif\0\1\0\0\0\1\0\0\3\0",
    b"GRIB\0\0\0\1",
    b"BUFR",
    b"\x89HDF\r\n\x1a\n",
    b"\x1f\x8b\x08",
    b"PK\3\4",
    b"",
)
"""The beginnings of files of other formats."""


@cache
def seeds() -> tuple[bytes, ...]:
    """Small honest files of every format that is read."""
    rng = np.random.default_rng(0)
    ramp = np.mgrid[0:24, 0:32].sum(axis=0) * 4
    rgb = Image.fromarray(np.stack([ramp, ramp[::-1], ramp * 2 % 256], axis=-1).astype(np.uint8))
    grey16 = Image.fromarray(rng.integers(0, 2**16, (9, 11), dtype=np.uint16))
    rotated = Image.Exif()
    rotated[hostile_tiff.ORIENTATION] = 6
    rotated[0x010F] = "maker"
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE)
    frames = [rgb.rotate(a).convert("P") for a in (90, 180)]
    wanted: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (rgb, "JPEG", {"exif": rotated}),
        (rgb, "JPEG", {"progressive": True}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "MPO", {"save_all": True, "append_images": [rgb.rotate(90)]}),
        (rgb, "PNG", {"exif": rotated, "icc_profile": b"profile" * 20}),
        (palette, "PNG", {"transparency": bytes(range(200))}),
        (grey16, "PNG", {}),
        (rgb, "PNG", {"save_all": True, "append_images": [rgb.rotate(90)]}),
        (rgb, "WEBP", {"exif": rotated}),
        (rgb.convert("RGBA"), "WEBP", {"lossless": True}),
        (rgb, "WEBP", {"save_all": True, "append_images": [rgb.rotate(90)]}),
        (rgb, "BMP", {}),
        (palette, "BMP", {}),
        (palette, "GIF", {"save_all": True, "append_images": frames, "transparency": 3}),
        (rgb, "TIFF", {}),
        (grey16, "TIFF", {}),
        (rgb, "TIFF", {"compression": "tiff_lzw", "exif": rotated}),
        (rgb, "TIFF", {"compression": "tiff_deflate"}),
        (rgb, "TIFF", {"compression": "jpeg"}),
        (rgb, "TIFF", {"compression": "packbits"}),
        (rgb.convert("1"), "TIFF", {"compression": "group4"}),
        (rgb, "TIFF", {"save_all": True, "append_images": [rgb.rotate(90)]}),
    ]
    found = []
    for image, kind, options in wanted:
        sink = io.BytesIO()
        image.save(sink, kind, **options)
        found.append(sink.getvalue())
    return (*found, rle_bmp(8, 8, b"\x08\x05\0\0" * 8 + b"\0\1"))


def mutated(random: Random) -> bytes:
    """An honest file with bytes changed, inserted, removed, repeated, or cut off."""
    data = bytearray(random.choice(seeds()))
    for _ in range(random.choice([1, 1, 2, 4, 16])):
        if not data:
            break
        # Headers are short: every other change is in them.
        at = random.randrange(min(len(data), random.choice([64, 512, len(data)])))
        size = random.choice([1, 2, 4, 8, 64])
        match random.randrange(7):
            case 0:
                data[at] ^= 1 << random.randrange(8)
            case 1:
                data[at : at + size] = random.randbytes(size)
            case 2:
                data[at : at + 4] = struct.pack(random.choice("<>") + "L", random.choice(ABSURD))
            case 3:
                del data[at : at + size]
            case 4:
                data[at:at] = random.randbytes(size)
            case 5:
                data[at:at] = data[at : at + size] * random.choice([1, 3, 50])
            case _:
                del data[random.randrange(len(data)) :]
    return bytes(data)


def other_format(random: Random) -> bytes:
    """A file of another format, or a file that begins like one."""
    if random.random() < 0.3:
        sink = io.BytesIO()
        kind = random.choice(["EPS", "PPM", "ICO", "TGA", "PCX", "SGI", "JPEG2000", "PDF", "IM"])
        Image.new("RGB", (9, 7), (1, 2, 3)).save(sink, kind)
        return sink.getvalue()
    return random.choice(SIGNATURES) + random.randbytes(random.choice([0, 30, 2000]))


def png_chunk(name: bytes, data: bytes, length: int | None = None) -> bytes:
    size = len(data) if length is None else length
    return struct.pack(">L", size) + name + data + struct.pack(">L", zlib.crc32(name + data))


def png(*chunks: bytes, width: int = 8, height: int = 8, bits: int = 8, colour: int = 0) -> bytes:
    """A PNG file with a valid header, `chunks` and then its pixels, which are those of 8x8 grey."""
    header = struct.pack(">LLBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = zlib.compress(bytes(9) * 8)
    parts = [png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", pixels)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + png_chunk(b"IEND", b"")


def jpeg_with(segments: bytes) -> bytes:
    """An honest JPEG file with more segments at its beginning."""
    return b"\xff\xd8" + segments + seeds()[2][2:]


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def rle_bmp(width: int, height: int, data: bytes) -> bytes:
    """A BMP file of 8 bits with run-length encoding."""
    header = struct.pack("<LllHHLLllLL", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    at = 14 + len(header) + 1024
    return b"BM" + struct.pack("<LLL", at + len(data), 0, at) + header + bytes(1024) + data


def webp_with(chunks: bytes) -> bytes:
    body = b"WEBP" + chunks
    return b"RIFF" + struct.pack("<L", len(body)) + body


def huge(random: Random) -> bytes:
    """A small file that declares many pixels."""
    width, height = (
        random.choice([1, 9000, 13_000, 20_000, 65_535, 2**24 - 1, 2**31 - 1, 2**32 - 1])
        for _ in range(2)
    )
    small = (min(width, 0xFFFF), min(height, 0xFFFF))
    match random.randrange(6):
        case 0:
            return png(width=width, height=height, bits=random.choice([1, 8, 16]))
        case 1:
            photo = seeds()[random.randrange(3)]
            at = max(photo.find(b"\xff\xc0"), photo.find(b"\xff\xc2")) + 5
            return photo[:at] + struct.pack(">HH", *small) + photo[at + 4 :]
        case 2:
            data = random.randbytes(random.choice([2, 400]))
            return rle_bmp(width & 0x7FFFFFFF, height & 0x7FFFFFFF, data)
        case 3:
            data = zlib.compress(bytes(random.choice([100, 4_000_000])))
            return hostile_tiff.whole(hostile_tiff.honest(width, height, 8, data), data)
        case 4:
            return b"GIF89a" + struct.pack("<HHBBB", *small, 0, 0, 0) + b"," + struct.pack(
                "<HHHHBB", 0, 0, *small, 0, 8
            ) + b"\x02\x4c\x01\0;"  # fmt: skip
        case _:
            sides = b"".join(struct.pack("<L", (w - 1) % 2**24)[:3] for w in (width, height))
            canvas = b"VP8X" + struct.pack("<L", 10) + b"\x10\0\0\0" + sides
            return webp_with(canvas + seeds()[9][12:])


def metadata(random: Random) -> bytes:
    """Damaged EXIF data in a JPEG, PNG, WebP or TIFF file."""
    data = hostile_tiff.exif(random)
    match random.randrange(5):
        case 0:
            return jpeg_with(segment(0xE1, b"Exif\0\0" + data))
        case 1:
            return png(png_chunk(b"eXIf", data))
        case 2:
            lines = f"\nexif\n{len(data):8}\n{data.hex()}\n".encode()
            text = b"Raw profile type exif\0" + lines[random.choice([0, 0, 0, 1, 9]) :]
            return png(png_chunk(b"tEXt", text))
        case 3:
            honest = seeds()[9][12:]
            flags = b"VP8X" + struct.pack("<L", 10) + b"\x18\0\0\0" + b"\x1f\0\0\x17\0\0"
            exif = b"EXIF" + struct.pack("<L", len(data)) + data + bytes(len(data) % 2)
            return webp_with(flags + honest + exif)
        case _:
            tag = random.choice([b"tiff:Orientation>", b'tiff:Orientation="'])
            xmp = tag + random.choice([b"6", b"9", b"0", b"-", b""]) + random.randbytes(4)
            return png(png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))


@cache
def bomb_of(size: int) -> bytes:
    """Return `size` zeros, deflated."""
    return zlib.compress(bytes(size))


def png_bomb(random: Random) -> bytes:
    """PNG chunks that inflate a thousandfold, lie about their length, or come in absurd order."""
    bomb = bomb_of(random.choice([100, 3_000_000, 60_000_000]))
    choices: tuple[Callable[[], bytes], ...] = (
        lambda: png_chunk(b"zTXt", b"key\0\0" + bomb),
        lambda: png_chunk(b"iTXt", b"key\0\1\0\0\0" + bomb),
        lambda: png_chunk(b"iCCP", b"name\0\0" + bomb),
        lambda: png_chunk(b"iCCP", b"name\0" + random.randbytes(5)),
        lambda: png_chunk(b"zTXt", random.randbytes(30)),
        lambda: png_chunk(b"tEXt", random.randbytes(30)) * random.choice([1, 3000]),
        lambda: png_chunk(b"acTL", struct.pack(">LL", random.choice(ABSURD), 0)),
        lambda: png_chunk(b"fcTL", struct.pack(">LLLLLHHBB", *[random.choice([0, 1, 8])] * 9)),
        lambda: png_chunk(b"fdAT", random.randbytes(random.randint(0, 9))),
        lambda: png_chunk(b"PLTE", random.randbytes(random.choice([0, 5, 768, 999]))),
        lambda: png_chunk(b"tRNS", random.randbytes(random.choice([0, 1, 6, 300]))),
        lambda: png_chunk(b"IDAT", random.randbytes(random.choice([0, 20]))),
        lambda: png_chunk(b"IHDR", random.randbytes(13)),
        lambda: png_chunk(random.choice([b"a\xffbc", b"1234", b"____"]), b"x"),
        lambda: png_chunk(random.choice([b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"eXIf"]), b""),
        lambda: png_chunk(b"vpAg", b"x", length=random.choice(ABSURD)),
    )
    chunks = [random.choice(choices)() for _ in range(random.randint(1, 4))]
    bits, colour = random.choice([(8, 0), (1, 0), (16, 0), (8, 2), (8, 3), (1, 3), (8, 6), (16, 4)])
    return png(*chunks, bits=bits, colour=colour)


def jpeg_structure(random: Random) -> bytes:
    """A JPEG file with repeated, damaged or missing segments and scans."""
    data = seeds()[1]
    scan = data.rindex(b"\xff\xda")
    match random.randrange(6):
        case 0:
            return data[:-2] + data[scan:-2] * random.choice([2, 99, 2000]) + data[-2:]
        case 1:
            exif = segment(0xE1, b"Exif\0\0" + hostile_tiff.exif(random))
            return jpeg_with(exif * random.choice([2, 99, 3000]))
        case 2:
            entries = [hostile_tiff.random_entry(random, tag) for tag in (0xB001, 0xB002)]
            entries[0] = random.choice([entries[0], hostile_tiff.long(0xB001, 2**32 - 1)])
            return jpeg_with(segment(0xE2, b"MPF\0" + hostile_tiff.whole(entries)))
        case 3:
            profile = [segment(0xE2, b"ICC_PROFILE\0" + random.randbytes(40)) for _ in range(9)]
            return jpeg_with(b"".join(profile))
        case 4:
            marker = random.choice([0xC0, 0xC2, 0xC3, 0xC4, 0xC9, 0xDB, 0xDD, 0xED, 0xEE, 0xDC])
            return jpeg_with(segment(marker, random.randbytes(random.choice([0, 1, 17, 65]))))
        case _:
            cut = random.randrange(2, len(data))
            return data[:cut] + random.choice([b"", data[scan:], b"\xff" * 500, data])


def gif(random: Random) -> bytes:
    """A GIF file with thousands of frames, comments, damaged LZW data, or frames off the screen."""
    frame = b"\x21\xf9\4" + random.randbytes(4) + b"\0,"
    frame += struct.pack("<HHHHB", *(random.choice([0, 1, 8, 60_000]) for _ in range(4)), 0)
    frame += bytes([random.choice([0, 2, 8, 12, 255])])
    frame += b"".join(
        bytes([n]) + random.randbytes(n)
        for n in random.choices([1, 9, 255], k=random.randint(0, 6))
    )
    comment = b"\x21\xfe" + b"\1x" * random.choice([0, 5, 20_000]) + b"\0"
    parts = random.choice([1, 3, 4000]) * [frame + b"\0"]
    flags = random.choice([0, 0x80, 0xF7])
    header = b"GIF89a" + struct.pack("<HHBBB", 8, 8, flags, 0, 0)
    return header + random.randbytes(random.choice([0, 6, 768])) + comment + b"".join(parts)


def bmp(random: Random) -> bytes:
    """A BMP file with run-length data of random codes, or a header of random fields."""
    if random.random() < 0.5:
        codes = bytes(random.choice([0, 0, 1, 2, 4, 255]) for _ in range(random.randint(0, 900)))
        return rle_bmp(random.choice([1, 8, 3000]), random.choice([1, 8, 3000, -8]), codes)
    size = random.choice([12, 16, 40, 52, 56, 64, 108, 124, random.choice(ABSURD)])
    fields = [random.choice([1, 4, 8, 24, 32, random.choice(ABSURD)]) for _ in range(9)]
    header = struct.pack("<L", size) + struct.pack("<9L", *fields) + random.randbytes(90)
    at = random.choice([14, 54, 1078, random.choice(ABSURD)])
    return b"BM" + struct.pack("<LLL", 0, 0, at) + header


def webp(random: Random) -> bytes:
    """A WebP file of random chunks, some of them honest."""
    honest = [seeds()[i][12:] for i in (8, 9, 10)]
    parts = []
    for _ in range(random.randint(1, 5)):
        name = random.choice([b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP"])
        data = random.randbytes(random.choice([0, 5, 10, 16, 60]))
        parts.append(name + struct.pack("<L", random.choice([len(data), *ABSURD])) + data)
    parts.insert(random.randint(0, len(parts)), random.choice(honest))
    return webp_with(b"".join(parts))


KINDS: dict[str, Callable[[Random], bytes]] = {
    "mutated": mutated,
    "other format": other_format,
    "huge": huge,
    "metadata": metadata,
    "png": png_bomb,
    "jpeg": jpeg_structure,
    "gif": gif,
    "bmp": bmp,
    "webp": webp,
    "tiff entries": hostile_tiff.absurd,
    "tiff tiles": hostile_tiff.tiles,
    "tiff directories": hostile_tiff.directories,
    "tiff values": hostile_tiff.many_values,
}
