"""Image files of every kind: pixels equal to Pillow's, and one error for all others."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from effsam_export.errors import ImageError
from effsam_export.imaging import decode, excess
from effsam_export.imaging.decode import FORMAT_NAMES, load_image
from tests.imaging import hostile_images, hostile_tiff
from tests.imaging.hostile_images import KINDS, seeds

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

OPEN_HINT = f"check that it is an intact {FORMAT_NAMES} file"
PATH_HINT = f"give the path of a {FORMAT_NAMES} file"
ORIENTATION = 0x0112
"""The EXIF tag."""


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    """2x3, every pixel another colour."""
    return np.arange(0, 180, 10, dtype=np.uint8).reshape(2, 3, 3)


# ------------------------------------------------------------------ honest files


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda x: x),
        (2, lambda x: x[:, ::-1]),
        (3, lambda x: x[::-1, ::-1]),
        (4, lambda x: x[::-1]),
        (5, lambda x: x.transpose(1, 0, 2)),
        (6, lambda x: np.rot90(x, -1)),
        (7, lambda x: np.rot90(x, 2).transpose(1, 0, 2)),
        (8, lambda x: np.rot90(x)),
    ],
    # Workers compare names of tests; a function's has its address in it.
    ids=map(str, range(1, 9)),
)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_exif_rotation_is_applied(
    tmp_path: Path,
    pixels: NDArray[np.uint8],
    orientation: int,
    turn: Callable[..., object],
    suffix: str,
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(pixels).save(path, exif=exif)
    np.testing.assert_array_equal(load_image(path), turn(pixels))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_changes_nothing(
    tmp_path: Path, pixels: NDArray[np.uint8], orientation: int
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "photo.png"), pixels)


def picture(mode: str) -> Image.Image:
    """A picture 3x2 of one grey, 100, in any mode."""
    if mode == "I;16":
        return Image.fromarray(np.full((2, 3), 100 * 256 + 7, dtype=np.uint16))
    if mode == "RGBA":
        return Image.new("RGBA", (3, 2), (100, 100, 100, 0))
    if mode == "P":
        image = Image.new("P", (3, 2), 1)
        image.putpalette([0, 0, 0, 100, 100, 100])
        image.info["transparency"] = b"\x00\x10"
        return image
    return Image.new("RGB", (3, 2), (100, 100, 100)).convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("RGB", "png"),
        ("L", "png"),
        ("LA", "png"),
        ("RGBA", "png"),
        ("P", "png"),
        ("I;16", "png"),
        ("I;16", "tif"),
        ("L", "jpg"),
        ("CMYK", "jpg"),
        ("CMYK", "tif"),
        ("RGB", "bmp"),
        ("RGB", "webp"),
        ("RGB", "mpo"),
        ("L", "gif"),
    ],
)
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"photo.{suffix}"
    # Pillow writes a single picture as JPEG even if the name ends in .mpo.
    several: dict[str, Any] = (
        {"save_all": True, "append_images": [picture(mode)]} if suffix == "mpo" else {}
    )
    picture(mode).save(path, **several)
    found = load_image(path)
    assert (found.dtype, found.shape) == (np.dtype(np.uint8), (2, 3, 3))
    np.testing.assert_allclose(found, 100, atol=1)


def test_image_of_one_pixel(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "dot.png")
    assert load_image(tmp_path / "dot.png").tolist() == [[[1, 2, 3]]]


# ------------------------------------------------------------------ one error


def refusal(path: Path) -> ImageError:
    with pytest.raises(ImageError) as caught:
        load_image(path)
    return caught.value


def test_missing(tmp_path: Path) -> None:
    error = refusal(tmp_path / "no.jpg")
    assert error.message == f"image `{tmp_path / 'no.jpg'}` does not exist"
    assert error.hint == PATH_HINT


def test_directory(tmp_path: Path) -> None:
    error = refusal(tmp_path)
    assert error.message == f"image `{tmp_path}` is a directory"
    assert error.hint == PATH_HINT


@pytest.mark.parametrize("content", [b"", b"hello\n"], ids=["empty", "text"])
def test_file_that_is_not_an_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    error = refusal(path)
    assert error.message == f"image `{path}` cannot be read as {FORMAT_NAMES}"
    assert error.hint == (
        "check that it is intact; convert it to JPEG or PNG first if its format is another"
    )


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    error = refusal(path)
    assert error.message.startswith(f"image `{path}` cannot be read: ")
    assert error.hint == OPEN_HINT


@pytest.mark.parametrize("pillow_limit", [4, 1000], ids=["pillow warns", "pillow is content"])
def test_too_many_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pillow_limit: int
) -> None:
    monkeypatch.setattr(decode, "MAX_PIXELS", 4)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow_limit)
    path = tmp_path / "photo.png"
    picture("RGB").save(path)
    error = refusal(path)
    assert error.message == f"image `{path}` is too large: 3x2 = 6 pixels, the limit is 4"
    assert error.hint == "resize it to at most 4 pixels first, such as 2x2"


def test_far_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)
    path = tmp_path / "photo.png"
    picture("RGB").save(path)
    error = refusal(path)
    assert error.message == f"image `{path}` is too large: 6 pixels, the limit is 4"
    assert error.hint == "resize it to at most 4 pixels first, such as 2x2"


def test_a_file_of_too_many_bytes(tmp_path: Path) -> None:
    path = tmp_path / "photo.webp"
    with path.open("wb") as file:
        file.truncate(decode.MAX_BYTES + 1)
    assert refusal(path).message == (
        f"image `{path}` is too large: 1,500,000,001 bytes, the limit is 1,500,000,000"
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with a name are of POSIX")
def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "zero.png"):
        error = refusal(tmp_path / name)
        assert error.message == f"image `{tmp_path / name}` is not a regular file"
        assert error.hint == PATH_HINT


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"], ids=["too long", "null"])
def test_a_name_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    assert "cannot be read: " in refusal(tmp_path / name).message


# ------------------------------------------------------------------ hostile files

CASES = {"huge": 0, "tiff values": 3}
"""Cases of a kind in the quick sample, in place of 12. Huge files are decoded at full size."""


def outcome(path: Path, data: bytes) -> str:
    """Load a case, and return its error's message, or nothing."""
    path.write_bytes(data)
    try:
        found = load_image(path)
    except ImageError as error:
        return error.message
    assert (found.dtype, found.shape[2]) == (np.dtype(np.uint8), 3)
    return ""


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_file_ends_in_pixels_or_in_one_error(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for seed in range(CASES.get(kind, 12)):
        message = outcome(tmp_path / "photo.jpg", KINDS[kind](Random(f"{kind}-{seed}")))
        assert "\n" not in message
    assert capfd.readouterr() == ("", "")


def test_postscript_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("was started"))
    assert "cannot be read as JPEG" in outcome(tmp_path / "photo.jpg", hostile_images.SIGNATURES[0])


def test_only_the_formats_of_images_are_read(tmp_path: Path) -> None:
    for kind in ("PPM", "TGA", "ICO", "EPS", "JPEG2000", "PCX", "SGI"):
        path = tmp_path / "photo.jpg"
        Image.new("RGB", (9, 7)).save(path, kind)
        assert "cannot be read as JPEG" in refusal(path).message


def test_progressive_scans_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = seeds()[1]
    scan = data.rindex(b"\xff\xda")
    path = tmp_path / "photo.jpg"
    assert outcome(path, data[:-2] + data[scan:-2] * 50 + data[-2:]) == ""
    many = data[:-2] + data[scan:-2] * 2000 + data[-2:]
    assert outcome(path, many) == f"image `{path}` has 101 or more scans of 768 pixels"
    monkeypatch.setattr(excess, "MAX_SCANNED_PIXELS", 20 * 768)
    assert outcome(path, many) == f"image `{path}` has 21 or more scans of 768 pixels"


def test_segments_and_chunks_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "photo.jpg"
    comments = hostile_images.segment(0xFE, b"x") * 2001
    assert outcome(path, hostile_images.jpeg_with(comments)).endswith("more than 2,000 segments")
    exif = hostile_images.segment(0xE1, b"Exif\0\0II") * 101
    assert outcome(path, hostile_images.jpeg_with(exif)).endswith("100 segments of EXIF data")
    monkeypatch.setattr(excess, "MAX_CHUNKS", 20)
    chunks = hostile_images.png_chunk(b"vpAg", b"")
    assert outcome(path, hostile_images.png(chunks * 17)) == ""
    assert outcome(path, hostile_images.png(chunks * 18)).endswith("has more than 20 chunks")


def test_a_tile_much_larger_than_its_image_is_refused(tmp_path: Path) -> None:
    image = hostile_tiff.honest(8, 8, 8, b"")
    entries = [e for e in image if e[0] not in (273, 278, 279)]
    entries += [hostile_tiff.long(322, 2**15), hostile_tiff.long(323, 2**14)]
    entries += [hostile_tiff.long(324, 8), hostile_tiff.long(325, 9)]
    path = tmp_path / "photo.tif"
    assert outcome(path, hostile_tiff.whole(entries, bytes(9))) == (
        f"image `{path}` of 8x8 pixels has tiles of 32768x16384, the limit is 16,777,216 pixels"
    )


def test_every_error_of_pillow_becomes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "photo.png"
    picture("RGB").save(path)
    for error in (RecursionError("deep"), AssertionError(), KeyError(3), ValueError("a\nb")):

        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(Image, "open", fail)
        assert refusal(path).message.startswith(f"image `{path}` cannot be read: ")
    monkeypatch.setattr(Image, "open", lambda *_, **__: bytearray(2**62))
    assert "memory" in refusal(path).message


def test_pillow_does_not_print(tmp_path: Path) -> None:
    """In a process of its own: pytest adds handlers to every logger."""
    entries = hostile_tiff.honest(8, 8, 1, bytes(64))
    entries[6] = hostile_tiff.long(277, 99)
    path = tmp_path / "photo.tif"
    path.write_bytes(hostile_tiff.whole(entries, bytes(64)))
    code = "import sys; from pathlib import Path; from effsam_export.imaging.decode import *\n"
    code += "try: load_image(Path(sys.argv[1]))\nexcept Exception as e: print(type(e).__name__)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(path)], capture_output=True, check=True
    )
    assert (done.stdout, done.stderr) == (b"ImageError\n", b"")


def test_stderr_is_there_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outcome(tmp_path / "photo.tif", hostile_tiff.tiles(Random(0)))
    os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"
    assert any(isinstance(h, logging.NullHandler) for h in logging.getLogger("PIL").handlers)
