"""The generated Kotlin for Android, on the JVM before stubs of Android's classes."""

from __future__ import annotations

import io
import math
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageOps

from effsam_export.integrate import kotlin as language
from effsam_export.integrate import render
from effsam_export.integrate.contract import EMBEDDINGS, contract_of
from effsam_export.integrate.kotlin_memory import peak_memory
from effsam_export.integrate.write import writer
from effsam_export.models import fixed
from tests.integrate.jvm import STUBS, Driver, package_of, packaged
from tests.integrate.tools import KINDS, manifest_for, pixels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from effsam_export.integrate.contract import Contract
    from effsam_export.spec.tensors import Float32
    from tests.integrate.jvm import Kotlin

MODELS = {"slots": KINDS["slots"], "squash": fixed.with_slots(KINDS["squash"], 6)}
SIZE = (5, 4)
WHITE = 0xFFFFFFFF
LARGE = (1500, 2000)
"""(height, width) of an image whose arrays are much larger than all else in the heap."""
YOUNG_MB = 2
SPARE = 6_000_000
"""Bytes of the JVM's heap that are not the arrays."""


def contract_for(kind: str) -> Contract:
    return contract_of(manifest_for(MODELS[kind], "tflite"))


def embeddings_of(contract: Contract) -> int:
    return math.prod(int(side) for side in contract.decoder.inputs[EMBEDDINGS])


@pytest.fixture(scope="module")
def classes(kotlin: Kotlin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("android")
    sources = []
    for kind, model in MODELS.items():
        manifest = manifest_for(model, "tflite")
        more = ("Driver.kt", "Android.kt")
        sources += packaged(manifest, folder / kind, package_of(kind), more)
    return kotlin.compile_stubs(kotlin.compile([*sources, *STUBS], folder / "classes"))


@pytest.fixture(scope="module")
def driver(
    kotlin: Kotlin, classes: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Driver]:
    main = f"{package_of('slots')}.AndroidKt"
    driver = Driver(kotlin.command(main, classes), tmp_path_factory.mktemp("driver"))
    yield driver
    driver.close()


# ------------------------------------------------------------------ images


def png_of(image: NDArray[np.uint8], orientation: int | None) -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(image).save(file, "PNG", exif=exif)
    return file.getvalue()


def found_image(found: dict[str, Float32]) -> Float32:
    height, width = found["size"].astype(int)
    return found["rgb"].reshape(height, width, 3)


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_a_photograph_is_turned_by_its_exif(driver: Driver, orientation: int | None) -> None:
    content = png_of(pixels(SIZE), orientation)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    found = found_image(driver.ask("photograph", (0, 0), content))
    assert np.array_equal(found, np.asarray(upright))


def test_a_transparent_photograph_keeps_its_colours(driver: Driver) -> None:
    """As Pillow's conversion to RGB, which drops the transparency."""
    image = np.dstack([pixels(SIZE), np.arange(20, dtype=np.uint8).reshape(SIZE)])
    found = found_image(driver.ask("photograph", (0, 0), png_of(image, 1)))
    assert np.array_equal(found, image[..., :3])


def test_a_stream_without_an_image(driver: Driver) -> None:
    content = png_of(pixels(SIZE), 1)
    start = content.index(b"IDAT")
    with pytest.raises(ValueError, match="there is no image that Android can read"):
        driver.ask("photograph", (0, 0), content[:start] + b"IDAX" + content[start + 4 :])


@pytest.mark.parametrize("config", ["ARGB_8888", "HARDWARE", "RGB_565"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_bitmap(driver: Driver, config: str, orientation: int) -> None:
    """Those that cannot be read as they are, too."""
    image = pixels(SIZE).astype(np.uint32)
    argb = 0xFF << 24 | image[..., 0] << 16 | image[..., 1] << 8 | image[..., 2]
    data = argb.astype(np.uint32).tobytes()
    found = found_image(driver.ask("bitmap", SIZE, data, config, orientation))
    assert np.array_equal(found, image if orientation == 1 else np.rot90(image, -1))


@pytest.mark.parametrize("colour", [WHITE, 0x80FF2010])
def test_a_mask_becomes_a_bitmap(driver: Driver, colour: int) -> None:
    mask = pixels(SIZE)[..., 0] > 127
    found = driver.ask("mask", SIZE, mask.astype(np.uint8).tobytes(), colour)["argb"]
    parts = [colour >> shift & 255 for shift in (24, 16, 8, 0)]
    assert np.array_equal(found.reshape(*SIZE, 4), mask[..., None] * np.asarray(parts))
    with pytest.raises(ValueError, match="the mask is of an image of another size"):
        driver.ask("mask", (4, 4), mask.astype(np.uint8).tobytes(), colour)


# ------------------------------------------------------------------ models among assets


def test_models_are_mapped_from_assets(driver: Driver, tmp_path: Path) -> None:
    """LiteRT gets exactly the bytes of each file, which lies anywhere in the app's package."""
    contract = contract_for("slots")
    folder = tmp_path / "bundle"
    folder.mkdir()
    contents = {"encoder": bytes(range(250)), "decoder": b"other"}
    (folder / contract.encoder.file).write_bytes(contents["encoder"])
    (folder / contract.decoder.file).write_bytes(contents["decoder"])
    found = driver.ask("assets", SIZE, b"", embeddings_of(contract), tmp_path)
    assert {name: bytes(values.astype(np.uint8)) for name, values in found.items()} == contents


def test_models_are_stored_uncompressed() -> None:
    manifest = manifest_for(MODELS["slots"], "tflite")
    for component in manifest["components"]:
        component["files"] = [f"{component['name']}.tflite"]
    files = writer("kotlin", manifest)()
    endings = re.findall(r'noCompress \+= "(\w+)"', files[language.GRADLE])
    named = re.findall(r'_FILE = "\w+\.(\w+)"', files["Segmenter.kt"])
    assert named == ["tflite", "tflite"]
    assert endings == ["tflite"]


# ------------------------------------------------------------------ what the files state


def test_what_is_not_compiled_against_android_says_so_first() -> None:
    files = writer("kotlin", manifest_for(MODELS["slots"], "tflite"))()
    for name, text in files.items():
        first = text.splitlines()[0]
        uses_android = re.search(r"^import (android|androidx|org\.tensorflow)\.", text, re.M)
        if name == language.GRADLE:
            assert first.startswith("// Never run by Gradle: ")
        else:
            assert (", and never run on a device." in first) == bool(uses_android), name
        assert render.MARK in text[:2000], name
        assert max(map(len, text.splitlines())) <= 100, name


@pytest.mark.parametrize("kind", MODELS)
def test_the_header_states_the_peak_memory(kind: str) -> None:
    header = writer("kotlin", manifest_for(MODELS[kind], "tflite"))()["Segmenter.kt"]
    header = " ".join(header.partition("package")[0].replace("//", " ").split())
    peak = peak_memory(contract_for(kind), (3000, 4000))
    megabytes = [math.ceil(v / 1e6) for v in (peak.read, peak.embed, peak.predict)]
    assert (
        "a photograph of 4000 x 3000 pixels: {} MB to read it, {} MB to embed it, {} MB to predict"
    ).format(*megabytes) in header
    assert megabytes[0] == 84


@pytest.mark.parametrize("what", ["read", "embed", "predict"])
@pytest.mark.parametrize("kind", MODELS)
def test_that_much_memory_is_enough_and_needed(
    kotlin: Kotlin, classes: Path, tmp_path: Path, kind: str, what: str
) -> None:
    """The JVM gets a heap of the stated size, and then one that is much smaller."""
    contract = contract_for(kind)
    needed = getattr(peak_memory(contract, LARGE), what)

    def works_in(size: float) -> bool:
        heap = [f"-Xmx{int(size) // 1024}k", f"-Xmn{YOUNG_MB}m", "-XX:+UseSerialGC"]
        command = kotlin.command(f"{package_of(kind)}.AndroidKt", classes, options=heap)
        driver = Driver(command, tmp_path)
        try:
            driver.ask(what, LARGE, b"", embeddings_of(contract))
        except ValueError:
            return False
        finally:
            driver.close()
        return True

    assert works_in(needed + SPARE)
    assert not works_in(0.75 * needed)
