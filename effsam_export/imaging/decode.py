"""Decode untrusted image files in bounded memory and time. numpy and Pillow only."""

from __future__ import annotations

import logging
import math
import os
import re
import threading
import warnings
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

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
from effsam_export.imaging.pixels import ORIENTATION, decode
from effsam_export.imaging.samples import PixelError
from effsam_export.util.files import fault_of_file
from effsam_export.util.reasons import MEMORY_HINT, is_out_of_memory, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    import numpy as np
    from numpy.typing import NDArray
    from PIL import ImageFile

    from effsam_export.imaging.pixels import Decoded, ValueRange
    from effsam_export.imaging.samples import OpenImage

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
DIRECTORIES = (34665, 34853, 40965)
"""TIFF tags of the further EXIF directories, which are not used."""
TILE_SIDES = (322, 323)
"""TIFF tags of a tile's width and height."""
OTHER_FORMAT = "convert it to JPEG or PNG first if its format is another"
OTHER_TIFF = "convert it to 16-bit PNG or 32-bit grey TIFF if its pixels are of another kind"
TIFF = (b"II", b"MM")
"""How a TIFF file begins."""

TURNED = (5, 6, 7, 8)
"""EXIF rotations that exchange rows and columns."""
Value = TypeVar("Value")

STDERR = threading.Lock()
"""Held while the process's stderr is redirected."""

# The last resort of `logging` would print Pillow's errors to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def load_image(path: Path, value_range: ValueRange = "auto") -> NDArray[np.uint8]:
    """Decode an image file as uint8 HxWx3 RGB, with its EXIF rotation applied.

    Raises:
        ImageError: As `read_image`.
    """
    return read_image(path, value_range).pixels


def read_image(path: Path, value_range: ValueRange = "auto") -> Decoded:
    """Decode an image file; of an animation the first frame, of a TIFF file the first page.

    Args:
        path: The file.
        value_range: Which values become black and white, as in `pixels.decode`.

    Returns:
        The pixels, uint8 HxWx3 RGB with the EXIF rotation applied, and how their values were read.

    Raises:
        ImageError: The file is missing, is not an intact image in one of `FORMATS`, has too many
            pixels or bytes, or it cannot be known in which range its values are.
    """
    return _read(path, partial(decode, value_range=value_range))


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of an image file after its EXIF rotation.

    Raises:
        ImageError: As `read_image`, but damaged pixels may go unnoticed.
    """
    return _read(path, _size)


def _size(open_image: OpenImage) -> tuple[int, int]:
    image = open_image()
    if image.format == "TIFF":
        # Pillow applies the rotation of a TIFF file itself; at which step differs by version.
        image.load()
    turned = image.getexif().get(ORIENTATION) in TURNED
    return (image.width, image.height) if turned else (image.height, image.width)


def _read(path: Path, work: Callable[[OpenImage], Value]) -> Value:
    """Return what a function makes of an image file.

    Raises:
        ImageError: As `read_image`.
    """
    _check_file(path)
    beginning = b""
    try:
        with _quiet(), path.open("rb") as file:
            beginning = file.read(2)
            if much := excess(file):
                raise ImageError(f"image `{path}` has {much}", hint="save it again as JPEG or PNG")
            with _without_stderr():
                return work(partial(_open, path, file))
    except PixelError as error:
        raise ImageError(f"image `{path}` {error}", hint=error.hint) from error
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"image `{path}` cannot be read as {FORMAT_NAMES}",
            hint=f"check that it is intact; {OTHER_TIFF if beginning in TIFF else OTHER_FORMAT}",
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


def _open(path: Path, file: BinaryIO) -> ImageFile.ImageFile:
    """Open the image of a file and check its content, before it is decoded."""
    file.seek(0)
    image = Image.open(file, formats=FORMATS)
    _check_content(path, image)
    return image


def _check_content(path: Path, image: Image.Image) -> None:
    count = image.width * image.height
    if count > MAX_PIXELS:
        raise _too_large(path, f"{image.width}x{image.height} = {count:,}", MAX_PIXELS)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # Else Pillow unpacks all values of these directories, at 30 times their size.
        exif = image.getexif()
        for tag in DIRECTORIES:
            if tag in exif:
                del exif[tag]
        width, height = (image.tag_v2.get(tag, 1) for tag in TILE_SIDES)
        # A tile is decoded whole, however small its image is.
        limit = max(count, MAX_TILE_PIXELS)
        if isinstance(width, int) and isinstance(height, int) and width * height > limit:
            raise ImageError(
                f"image `{path}` of {image.width}x{image.height} pixels has tiles of "
                f"{width}x{height}, the limit is {limit:,} pixels",
                hint="save it again without tiles",
            )


def _too_large(path: Path, count: str, limit: int) -> ImageError:
    side = math.isqrt(limit)
    return ImageError(
        f"image `{path}` is too large: {count} pixels, the limit is {limit:,}",
        hint=f"resize it to at most {limit:,} pixels first, such as {side}x{side}",
    )


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
