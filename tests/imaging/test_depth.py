"""Images of more than 8 bits: which values become black and white, and what is said of it."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
from PIL import Image

from effsam_export.errors import ImageError
from effsam_export.imaging import pixels
from effsam_export.imaging.decode import read_image
from effsam_export.imaging.pixels import RANGE_HINT, Decoded
from tests.imaging.deep_files import of_every_kind, png16, tiff
from tests.imaging.hostile_images import png_chunk
from tests.imaging.test_decode import outcome

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from effsam_export.imaging.pixels import ValueRange

GREY = np.arange(0, 256, dtype=np.uint16).reshape(8, 32, 1)[::-1]
"""All 8-bit values once, 8x32x1."""
RGB = np.stack([GREY[..., 0], GREY[::-1, :, 0], 255 - GREY[:, ::-1, 0]], axis=-1)
EIGHT = RGB.astype(np.uint8)


def read(folder: Path, content: bytes, value_range: ValueRange = "auto") -> Decoded:
    """Read a file; its name says nothing of its format."""
    (folder / "image").write_bytes(content)
    return read_image(folder / "image", value_range)


def refusal(folder: Path, content: bytes, value_range: ValueRange = "auto") -> ImageError:
    with pytest.raises(ImageError) as caught:
        read(folder, content, value_range)
    return caught.value


def check(found: Decoded, wanted: NDArray[Any], low: float, high: float) -> None:
    """Compare with grey or RGB, HxWxC."""
    np.testing.assert_array_equal(found.pixels, np.broadcast_to(wanted, found.pixels.shape))
    assert (found.low, found.high) == (low, high)


# ------------------------------------------------------------------ 16 bits


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["png", "tiff", "big-endian", "deflated"])
def test_auto_takes_the_depth_of_the_values(tmp_path: Path, bits: int, kind: str) -> None:
    values = GREY << (bits - 8)
    files = {
        "png": png16(values),
        "tiff": tiff(values),
        "big-endian": tiff(values, order=">"),
        "deflated": tiff(values, order=">", deflated=True),
    }
    found = read(tmp_path, files[kind])
    check(found, GREY, 0, 2**bits - 1)
    assert found.notes == (
        f"has 16-bit values from 0 to {values.max()}, read as 0 to {2**bits - 1} ({bits} bits) "
        "by the range `auto`",
    )


def test_full_takes_all_of_the_type(tmp_path: Path) -> None:
    values = GREY << 4
    check(read(tmp_path, png16(values), "full"), values >> 8, 0, 65535)


def test_a_range_is_scaled_and_clipped(tmp_path: Path) -> None:
    values = GREY * 10
    found = read(tmp_path, png16(values), (500, 1520))
    check(found, np.rint((np.clip(values, 500, 1520) - 500.0) / 4), 500, 1520)
    assert found.notes[0].endswith("read as 500 to 1520 by the range `500,1520`")
    # A whole number of bits is read by its upper 8 bits, as `auto` does.
    check(read(tmp_path, png16(values), (0, 4095)), values >> 4, 0, 4095)


COLOUR_FILES = {
    "png": lambda v: png16(v),
    "png, filtered": lambda v: png16(v, filter_type=1),
    "png, interlaced": lambda v: png16(v, interlaced=True),
    "tiff": lambda v: tiff(v),
    "tiff, big-endian": lambda v: tiff(v, order=">"),
    "tiff, deflated": lambda v: tiff(v, deflated=True),
    "tiff, big-endian and deflated": lambda v: tiff(v, order=">", deflated=True),
}


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("kind", COLOUR_FILES)
def test_colours_of_16_bits(tmp_path: Path, kind: str, bits: int) -> None:
    found = read(tmp_path, COLOUR_FILES[kind](RGB << (bits - 8)))
    check(found, RGB, 0, 2**bits - 1)
    assert f"({bits} bits)" in found.notes[0]


@pytest.mark.parametrize("kind", COLOUR_FILES)
def test_alpha_of_16_bits_does_not_count(tmp_path: Path, kind: str) -> None:
    opaque = np.full((*RGB.shape[:2], 1), 65535, np.uint16)
    values = np.concatenate([RGB << 4, opaque], axis=-1)
    file = png16(values) if kind.startswith("png") else tiff(values, alpha=2)
    check(read(tmp_path, file), RGB, 0, 4095)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("filter_type", [0, 1])
def test_grey_of_16_bits_with_alpha(tmp_path: Path, interlaced: bool, filter_type: int) -> None:
    values = np.concatenate([GREY << 4, np.full_like(GREY, 65535)], axis=-1)
    file = png16(values, interlaced=interlaced, filter_type=filter_type)
    check(read(tmp_path, file), GREY, 0, 4095)


@pytest.mark.parametrize("deflated", [False, True])
def test_colours_that_were_multiplied_with_alpha(tmp_path: Path, deflated: bool) -> None:
    half = np.full((*RGB.shape[:2], 1), 32768, np.uint16)
    values = np.concatenate([(RGB << 8) // 2, half], axis=-1)
    found = read(tmp_path, tiff(values, alpha=1, deflated=deflated), "full")
    assert np.abs(found.pixels.astype(int) - RGB).max() <= 2


def test_four_inks_of_16_bits(tmp_path: Path) -> None:
    inks = np.concatenate([RGB, np.zeros((*RGB.shape[:2], 1), np.uint16)], axis=-1)
    eight = Image.frombytes("CMYK", (32, 8), inks.astype(np.uint8).tobytes()).convert("RGB")
    for bits in (12, 16):
        found = read(tmp_path, tiff(inks << (bits - 8), photometric=5))
        check(found, np.asarray(eight), 0, 2**bits - 1)


def test_channels_in_separate_planes_are_refused(tmp_path: Path) -> None:
    for deflated in (False, True):
        error = refusal(tmp_path, tiff(RGB << 4, planar=True, deflated=deflated))
        assert "has channels of 16 bits in separate planes" in error.message
        assert error.hint == "save it again with interleaved channels (PlanarConfiguration 1)"


def test_a_profile_and_significant_bits_change_nothing(tmp_path: Path) -> None:
    profile = png_chunk(b"iCCP", b"name\0\0" + bytes.fromhex("789c030000000001"))
    check(read(tmp_path, png16(GREY << 4, profile, png_chunk(b"sBIT", b"\x0c"))), GREY, 0, 4095)


def test_small_values_that_are_white(tmp_path: Path) -> None:
    found = read(tmp_path, tiff(4080 - (GREY << 4), photometric=0))
    check(found, 255 - (4080 - (GREY << 4) >> 4), 0, 4095)


def test_the_greatest_value_that_a_file_states(tmp_path: Path) -> None:
    values = GREY << 2
    check(read(tmp_path, tiff(values, more={281: 4095})), values >> 4, 0, 4095)
    # Some programs write the greatest value of the type, whatever the image has.
    check(read(tmp_path, tiff(values, more={281: 65535})), GREY, 0, 1023)


def test_samples_of_12_bits_are_of_12_bits(tmp_path: Path) -> None:
    values = GREY[:, :, 0].astype(int) * 2
    pairs = values.reshape(-1, 2)
    packed = np.stack(
        [pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=-1
    )
    file = tiff(packed.astype(np.uint8).reshape(8, -1, 1))
    for tag, was, now in ((256, 48, 32), (258, 8, 12)):
        kind = b"\4\0" if tag == 256 else b"\3\0"
        entry = tag.to_bytes(2, "little") + kind + b"\1\0\0\0"
        assert file.count(entry + was.to_bytes(4, "little")) == 1
        file = file.replace(entry + was.to_bytes(4, "little"), entry + now.to_bytes(4, "little"))
    check(read(tmp_path, file), GREY * 2 >> 4, 0, 4095)


# ------------------------------------------------------------------ signed, 32 bits, floating point


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.int16, np.int32])
def test_negative_values_are_stretched(
    tmp_path: Path, dtype: type[Any], order: Literal["<", ">"], deflated: bool
) -> None:
    values = GREY.astype(dtype) * 4 - 1000
    found = read(tmp_path, tiff(values, order=order, deflated=deflated))
    check(found, GREY, -1000, 20)
    bits = values.dtype.itemsize * 8
    assert found.notes == (
        f"has signed {bits}-bit values from -1000 to 20, read as -1000 to 20 (stretched) "
        "by the range `auto`",
    )


def test_signed_values_that_are_not_negative_have_a_depth(tmp_path: Path) -> None:
    check(read(tmp_path, tiff(GREY.astype(np.int16) << 4)), GREY, 0, 4095)
    check(read(tmp_path, tiff(GREY.astype(np.int16) << 7)), GREY, 0, 32767)
    check(read(tmp_path, tiff(GREY.astype(np.int32) << 4)), GREY, 0, 4095)
    values = GREY.astype(np.int32) << 4
    full = np.rint((values + 2.0**31) / (2**32 - 1) * 255)
    check(read(tmp_path, tiff(values), "full"), full, -(2**31), 2**31 - 1)


def test_signed_8_bit_values(tmp_path: Path) -> None:
    check(read(tmp_path, tiff((GREY.astype(int) - 128).astype(np.int8))), GREY, -128, 127)


def test_unsigned_32_bit_values(tmp_path: Path) -> None:
    values = GREY.astype(np.uint32) << 24
    greatest = 255 << 24
    check(read(tmp_path, tiff(values)), GREY, 0, greatest)
    check(read(tmp_path, tiff(values, deflated=True), "full"), GREY, 0, 2**32 - 1)
    check(read(tmp_path, tiff(GREY.astype(np.uint32) << 2)), GREY, 0, 1023)


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("white", [1, 255])
def test_floating_point(
    tmp_path: Path, white: int, order: Literal["<", ">"], deflated: bool
) -> None:
    values = (GREY / 255 * white).astype(np.float32)
    found = read(tmp_path, tiff(values, order=order, deflated=deflated))
    check(found, GREY, 0, white)
    assert found.notes == (
        f"has floating-point values from 0 to {white}, read as 0 to {white} by the range `auto`",
    )


@pytest.mark.parametrize(("low", "high"), [(0, 65535), (-1, 1), (-1000, 20), (0, 255.5)])
def test_floating_point_of_an_unknown_range(tmp_path: Path, low: float, high: float) -> None:
    file = tiff((GREY / 255 * (high - low) + low).astype(np.float32))
    error = refusal(tmp_path, file)
    assert error.message.endswith("which fit neither 0 to 1 nor 0 to 255")
    assert f"has floating-point values from {low:g} to {high:g}" in error.message
    assert error.hint == RANGE_HINT
    assert refusal(tmp_path, file, "full").message.endswith("which have no full range")
    found = read(tmp_path, file, (low, high))
    assert np.abs(found.pixels - GREY.astype(int)).max() <= 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    values = (GREY / 255).astype(np.float32)
    values[3, 3] = value
    for value_range in ("auto", (0.0, 1.0)):
        error = refusal(tmp_path, tiff(values), value_range)
        assert error.message.endswith("has values that are NaN or infinite")
        assert error.hint == "replace them by numbers, and save it again"


def test_pixels_that_pillow_does_not_know(tmp_path: Path) -> None:
    for values in (GREY.astype(np.float64), RGB.astype(np.float32), RGB.astype(np.int16)):
        error = refusal(tmp_path, tiff(values))
        assert "cannot be read as" in error.message
        assert "16-bit PNG or 32-bit grey TIFF" in str(error.hint)


# ------------------------------------------------------------------ 8 bits, pages, rotation


def test_8_bits_are_read_as_they_are(tmp_path: Path) -> None:
    for value_range in ("auto", "full"):
        found = read(tmp_path, tiff(EIGHT), value_range)
        check(found, EIGHT, 0, 255)
        assert found.notes == ()


def test_a_range_of_8_bits(tmp_path: Path) -> None:
    found = read(tmp_path, tiff(EIGHT), (0, 51))
    check(found, np.clip(EIGHT, 0, 51) * 5, 0, 51)
    assert found.notes == ("has 8-bit values from 0 to 255, read as 0 to 51 by the range `0,51`",)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "CMYK", "RGBA", "RGB"])
def test_modes_of_8_bits(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(EIGHT).convert("P" if mode == "PA" else mode)
    image = image.convert("PA") if mode == "PA" else image
    image.save(tmp_path / "image.tif")
    found = read_image(tmp_path / "image.tif")
    check(found, np.asarray(image.convert("RGB")), 0, 255)
    assert found.notes == ()


def test_only_the_first_page_is_read_and_that_is_said(tmp_path: Path) -> None:
    found = read(tmp_path, tiff(EIGHT, 255 - EIGHT))
    check(found, EIGHT, 0, 255)
    assert found.notes == ("has more than one page: the first one was read",)
    found = read(tmp_path, tiff(RGB << 4, RGB << 8, deflated=True))
    check(found, RGB, 0, 4095)
    assert len(found.notes) == 2


@pytest.mark.parametrize("orientation", [3, 6])
def test_rotation(tmp_path: Path, orientation: int) -> None:
    turned = np.rot90(RGB, 2 if orientation == 3 else -1)
    check(read(tmp_path, tiff(RGB << 4, more={0x0112: orientation})), turned, 0, 4095)
    exif = Image.Exif()
    exif[0x0112] = orientation
    chunk = png_chunk(b"eXIf", exif.tobytes()[6:])
    check(read(tmp_path, png16(RGB << 4, chunk)), turned, 0, 4095)


def test_bands_of_rows_have_one_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "BAND_PIXELS", 70)
    check(read(tmp_path, png16(RGB << 4)), RGB, 0, 4095)
    check(read(tmp_path, tiff(GREY.astype(np.int32) * 4 - 1000)), GREY, -1000, 20)


def test_an_image_of_one_value(tmp_path: Path) -> None:
    values = np.full((2, 3, 1), -7, np.int32)
    check(read(tmp_path, tiff(values)), np.zeros((2, 3, 3)), -7, -7)
    check(read(tmp_path, png16(np.zeros((2, 3, 1), np.uint16))), np.zeros((2, 3, 3)), 0, 255)


def test_extreme_ranges_do_not_overflow(tmp_path: Path) -> None:
    values = np.asarray([[[-3e38], [0], [3e38]]], np.float32)
    found = read(tmp_path, tiff(values), (-3e38, 3e38))
    assert found.pixels[0, :, 0].tolist() == [0, 128, 255]
    assert read(tmp_path, tiff(values), (0, 1e-300)).pixels[0, :, 0].tolist() == [0, 0, 255]


def test_damaged_files_end_in_pixels_or_in_one_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    random = Random(26)
    outcomes = set()
    for content in of_every_kind():
        for _ in range(6):
            damaged = bytearray(content)
            for _ in range(random.choice([1, 1, 3, 30])):
                damaged[random.randrange(len(damaged))] = random.choice([0, 1, 255, 16])
            message = outcome(tmp_path / "image", bytes(damaged))
            assert "\n" not in message
            outcomes.add(bool(message))
    assert outcomes == {True, False}
    assert capfd.readouterr() == ("", "")
