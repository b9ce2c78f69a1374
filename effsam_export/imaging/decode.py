"""Decode untrusted image files in bounded memory and time. numpy and Pillow only."""

from __future__ import annotations

import logging
import math
import os
import re
import threading
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

# Without these imports, Pillow imports all its formats when it needs one of `FORMATS`.
from PIL import (
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from effsam_export.errors import ImageError, shown
from effsam_export.imaging.excess import excess
from effsam_export.util.files import fault_of_file
from effsam_export.util.reasons import MEMORY_HINT, is_out_of_memory, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""Pillow's names of the formats that are read. Its other readers can start programs, for example
Ghostscript for PostScript. `JPEG` includes the multi-picture files of phones (MPO)."""
FORMAT_NAMES = "JPEG, PNG, WebP, BMP, TIFF or GIF"
MAX_PIXELS = 178_956_970
"""Limit against decompression bombs, where Pillow by default raises an error."""
MAX_BYTES = 1_500_000_000
"""Limit of a file's size: `MAX_PIXELS` uncompressed pixels of four 16-bit channels, and 68 MB."""
MAX_TILE_PIXELS = 4096 * 4096
"""Limit of a TIFF tile that is larger than its image."""
BAND_PIXELS = 4 * 1024 * 1024
"""Pixels that are converted to RGB at a time."""
ORIENTATION = 0x0112
"""EXIF tag of the rotation."""
ORIENTATIONS = (1, 2, 3, 4, 5, 6, 7, 8)
"""Values of it: not changed, mirrored, turned by 180 degrees, upside down; then the same of the
image with rows and columns exchanged."""
DIRECTORIES = (34665, 34853, 40965)
"""TIFF tags of the further EXIF directories, which are not used."""
TILE_SIDES = (322, 323)
"""TIFF tags of a tile's width and height."""
CONVERT = "convert it to JPEG or PNG first"

STDERR = threading.Lock()
"""Held while the process's stderr is redirected."""

# The last resort of `logging` would print Pillow's errors to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def load_image(path: Path) -> NDArray[np.uint8]:
    """Decode an image file as uint8 HxWx3 RGB, with its EXIF rotation applied.

    Of an animation, the first frame is decoded.

    Raises:
        ImageError: The file is missing, is not an intact image in one of `FORMATS`, or has too many
            pixels or bytes.
    """
    _check_file(path)
    try:
        with _quiet(), path.open("rb") as file:
            if much := excess(file):
                raise ImageError(f"image `{path}` has {much}", hint="save it again as JPEG or PNG")
            with Image.open(file, formats=FORMATS) as image:
                _check_content(path, image)
                with _without_stderr():
                    pixels = _rgb(path, image)
                # The EXIF data of a PNG file may follow the pixels.
                return _rotated(pixels, image.getexif().get(ORIENTATION))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"image `{path}` cannot be read as {FORMAT_NAMES}",
            hint=f"check that it is intact; {CONVERT} if its format is another",
        ) from error
    except Image.DecompressionBombError as error:
        count, limit = map(int, re.findall(r"\d+", str(error))[:2])
        raise _too_large(path, f"{count:,}", limit) from error
    except Exception as error:  # Pillow raises many types of exceptions for damaged files.
        hint = f"check that it is an intact {FORMAT_NAMES} file"
        if is_out_of_memory(error):
            hint = MEMORY_HINT
        elif isinstance(error, OSError) and error.errno is not None:  # Pillow's own has none.
            hint = "check its permissions and its disk"
        raise ImageError(
            f"image `{path}` cannot be read: {shown(reason_of(error) or type(error).__name__)}",
            hint=hint,
        ) from error


def _check_file(path: Path) -> None:
    """Check the file's kind and size before it is opened: a pipe or a device may never end."""
    if fault := fault_of_file(path):
        raise ImageError(f"image `{path}` {fault}", hint=f"give the path of a {FORMAT_NAMES} file")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ImageError(
            f"image `{path}` is too large: {size:,} bytes, the limit is {MAX_BYTES:,}",
            hint="save it as JPEG first",
        )


def _check_content(path: Path, image: Image.Image) -> None:
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise _too_large(path, f"{image.width}x{image.height} = {pixels:,}", MAX_PIXELS)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # Else Pillow unpacks all values of these directories, at 30 times their size.
        exif = image.getexif()
        for tag in DIRECTORIES:
            if tag in exif:
                del exif[tag]
        width, height = (image.tag_v2.get(tag, 1) for tag in TILE_SIDES)
        # A tile is decoded whole, however small its image is.
        limit = max(pixels, MAX_TILE_PIXELS)
        if isinstance(width, int) and isinstance(height, int) and width * height > limit:
            raise ImageError(
                f"image `{path}` of {image.width}x{image.height} pixels has tiles of "
                f"{width}x{height}, the limit is {limit:,} pixels",
                hint="save it again without tiles",
            )


def _too_large(path: Path, pixels: str, limit: int) -> ImageError:
    side = math.isqrt(limit)
    return ImageError(
        f"image `{path}` is too large: {pixels} pixels, the limit is {limit:,}",
        hint=f"resize it to at most {limit:,} pixels first, such as {side}x{side}",
    )


def _rgb(path: Path, image: Image.Image) -> NDArray[np.uint8]:
    """Convert an image to uint8 HxWx3 RGB, in bands of rows to save memory."""
    if image.mode == "F":
        raise ImageError(
            f"image `{path}` has floating-point pixels", hint="convert it to 8 bits first"
        )
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    rows = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        pixels[top : top + rows] = np.asarray(_eight_bits(band).convert("RGB"))
    return pixels


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert 16-bit grey to 8 bits by its upper byte; Pillow would clip it to white."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.clip(np.asarray(image), 0, 0xFFFF) // 256).astype(np.uint8))


def _rotated(pixels: NDArray[np.uint8], orientation: object) -> NDArray[np.uint8]:
    """Apply an EXIF orientation; a value that is none of 1 to 8 changes nothing."""
    if orientation not in ORIENTATIONS:
        return pixels
    which = ORIENTATIONS.index(orientation)
    if which >= 4:
        pixels = pixels.transpose(1, 0, 2)
    if which % 4 in (1, 2):
        pixels = pixels[:, ::-1]
    if which % 4 in (2, 3):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Discard what libtiff writes to the process's stderr about damaged files."""
    with STDERR:
        try:
            saved = os.dup(2)
        except OSError:  # It is closed.
            yield
            return
        try:
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Pillow's warnings about sizes, palettes and EXIF data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
