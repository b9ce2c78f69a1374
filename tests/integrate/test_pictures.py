"""The self-test's own PNG reader: every filter, and nothing but what a golden image is."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.integrate.tools import KINDS, generate, import_file, manifest_for, pixels

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    folder = generate(manifest_for(KINDS["pad"]), "python", tmp_path_factory.mktemp("code"))
    sys.modules["segmenter"] = import_file(folder / "segmenter.py")
    try:
        return import_file(folder / "selftest.py")
    finally:
        del sys.modules["segmenter"]


def png(image: NDArray[np.uint8], filters: list[int], form: bytes = b"\x08\x02\0\0\0") -> bytes:
    """A PNG file whose lines are filtered as said, by turns (RFC 2083, chapter 6)."""
    height, width = image.shape[:2]
    padded = np.zeros((height + 1, width + 1, 3), np.int64)
    padded[1:, 1:] = image
    x, left, up, corner = padded[1:, 1:], padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    guess = left + up - corner
    far = np.stack([abs(guess - left), abs(guess - up), abs(guess - corner)])
    nearest = np.choose(far.argmin(axis=0), [left, up, corner])
    guesses = [np.zeros_like(x), left, up, (left + up) // 2, nearest]
    lines = b""
    for y in range(height):
        kind = filters[y % len(filters)]
        line = (x[y] - guesses[min(kind, 4)][y]) % 256
        lines += bytes([kind]) + line.astype(np.uint8).tobytes()
    out = b"\x89PNG\r\n\x1a\n"
    packed = zlib.compress(lines)
    head = struct.pack(">II", width, height) + form
    parts = [(b"IHDR", head), (b"tEXt", b"x\0y"), (b"IDAT", packed[:9]), (b"IDAT", packed[9:])]
    for kind_of, body in [*parts, (b"IEND", b"")]:
        out += struct.pack(">I", len(body)) + kind_of + body
        out += struct.pack(">I", zlib.crc32(kind_of + body))
    return out


@pytest.mark.parametrize("filters", [[0], [1], [2], [3], [4], [4, 3, 2, 1, 0]], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (40, 33)], ids=str)
def test_every_filter(code: ModuleType, filters: list[int], size: tuple[int, int]) -> None:
    image = pixels(size)
    data = png(image, filters)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), image)  # it is one
    assert np.array_equal(code.png(data), image)


@pytest.mark.parametrize("optimize", [False, True])
def test_png_files_of_pillow(code: ModuleType, optimize: bool) -> None:
    image = pixels((90, 61))
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", optimize=optimize)
    assert np.array_equal(code.png(file.getvalue()), image)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_other_pixels(code: ModuleType, mode: str) -> None:
    file = io.BytesIO()
    Image.fromarray(pixels((8, 8))).convert(mode).save(file, "PNG")
    with pytest.raises(code.Failed, match="is not 8-bit RGB"):
        code.png(file.getvalue())


def test_interlacing_and_deep_colour(code: ModuleType) -> None:
    for form in (b"\x08\x02\0\0\x01", b"\x10\x02\0\0\0"):
        with pytest.raises(code.Failed, match="is not 8-bit RGB"):
            code.png(png(pixels((4, 4)), [0], form))


def test_other_files(code: ModuleType) -> None:
    with pytest.raises(code.Failed, match="not a PNG"):
        code.png(b"\xff\xd8\xff\xe0 JFIF")
    with pytest.raises(code.Failed, match="filter 9"):
        code.png(png(pixels((4, 4)), [9]))
    with pytest.raises((code.Failed, ValueError, zlib.error)):
        code.png(png(pixels((40, 40)), [0])[:-300])


def test_run_lengths(code: ModuleType) -> None:
    mask = code.rle({"size": [2, 3], "counts": [0, 1, 3, 2]})
    assert mask.tolist() == [[True, False, True], [False, False, True]]
    for counts in ([5], [7], [-1, 7], [3, -1, 4]):
        with pytest.raises(code.Failed, match="do not add up"):
            code.rle({"size": [2, 3], "counts": counts})


def test_masks_and_numbers_that_are_not(code: ModuleType) -> None:
    empty, full = np.zeros((2, 2), bool), np.ones((2, 2), bool)
    assert code.mask_iou(empty, empty) == 1.0
    assert code.mask_iou(empty, full) == 0.0
    assert not code.mask_iou(empty, np.zeros((2, 3), bool)) >= 0  # NaN
    assert code.number(float("nan")) is None


def test_a_mask_input_of_another_type(code: ModuleType) -> None:
    for array in (np.zeros((2, 2)), np.zeros(4, np.float32)):
        file = io.BytesIO()
        np.save(file, array)
        with pytest.raises(code.Failed, match="not float32"):
            code.npy(file.getvalue())
