"""Bound what JPEG and PNG files ask of their decoders: segments, progressive scans, chunks.

A progressive scan goes over the whole image and may take less than 300 bytes of the file. libjpeg
does not limit their number; libtiff accepts 100 for JPEG in TIFF.
Sources: ITU-T T.81, Annex B; the PNG specification, section 5.3.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import BinaryIO

MAX_SCANS = 100
"""Limit of scans. The progressive files of libjpeg have 10, or 18 for CMYK."""
MAX_SCANNED_PIXELS = 4_500_000_000
"""Limit of the image's pixels times its scans: 25 scans for the largest image."""
MAX_SEGMENTS = 2000
"""Limit of marker segments, of up to 64 KiB each."""
MAX_EXIF_SEGMENTS = 100
"""Limit of EXIF segments. Pillow joins them in time that grows with the square of their number."""
MAX_CHUNKS = 200_000
"""Limit of PNG chunks: at the usual 8 KiB each, 1.6 GB."""

MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
"""A marker that is followed by a segment, or the end of the image."""
WINDOW_BYTES = 64 * 1024
JPEG = b"\xff\xd8\xff"
PNG = b"\x89PNG\r\n\x1a\n"
END_OF_IMAGE = 0xD9
START_OF_SCAN = 0xDA
APP1 = 0xE1
FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def excess(file: BinaryIO) -> str | None:
    """Return what a JPEG or PNG file has too much of, in words; None if there is no such thing.

    Damage is left to the decoder. The position in the file changes.
    """
    file.seek(0)
    beginning = file.read(len(PNG))
    if beginning.startswith(JPEG):
        return _jpeg_excess(file)
    return _png_excess(file) if beginning == PNG else None


def _png_excess(file: BinaryIO) -> str | None:
    """Count the chunks of a PNG file, from behind its signature."""
    for _ in range(MAX_CHUNKS):
        header = file.read(8)
        if len(header) < 8 or header.endswith(b"IEND"):
            return None
        # Behind the data are 4 bytes of checksum.
        file.seek(int.from_bytes(header[:4], "big") + 4, 1)
    return f"more than {MAX_CHUNKS:,} chunks"


def _jpeg_excess(file: BinaryIO) -> str | None:
    """Count the segments and scans of a JPEG file."""
    file.seek(2)
    segments = exif = scans = pixels = 0
    while (marker := _next_marker(file)) not in (None, END_OF_IMAGE):
        length = int.from_bytes(file.read(2), "big")
        if length < 2:
            return None
        after = file.tell() + length - 2
        segments += 1
        if marker == START_OF_SCAN:
            scans += 1
        elif marker == APP1:
            exif += file.read(6) == b"Exif\0\0"
        elif marker in FRAME_HEADERS:
            header = file.read(5)
            pixels = int.from_bytes(header[1:3], "big") * int.from_bytes(header[3:5], "big")
        if segments > MAX_SEGMENTS:
            return f"more than {MAX_SEGMENTS:,} segments"
        if exif > MAX_EXIF_SEGMENTS:
            return f"more than {MAX_EXIF_SEGMENTS} segments of EXIF data"
        # A single scan is what every image has: its size is checked elsewhere.
        if scans > 1 and (scans > MAX_SCANS or scans * pixels > MAX_SCANNED_PIXELS):
            return f"{scans} or more scans of {pixels:,} pixels"
        file.seek(after)
    return None


def _next_marker(file: BinaryIO) -> int | None:
    """Move the file's position after the next marker and return it; None at the end of the file."""
    while window := file.read(WINDOW_BYTES):
        found = MARKER.search(window)
        if found:
            file.seek(found.end() - len(window), 1)
            return found[1][0]
        if window.endswith(b"\xff") and len(window) > 1:
            file.seek(-1, 1)
    return None
