"""The generated Kotlin on the JVM: the reference's numbers, whatever kind the contract is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import PIL
import pytest

from effsam_export.imaging.images import encoder_image, frame_of, prompt_to_model, upscale_masks
from effsam_export.spec.prompts import Point, Prompt, Sample
from effsam_export.spec.sizes import sides
from tests.integrate.jvm import Driver, package_of, packaged
from tests.integrate.tools import KINDS, SIZES, logits, manifest_for, pixels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.tensors import Float32
    from tests.integrate.jvm import Kotlin

PILLOW = int(PIL.__version__.split(".")[0])
PURE = ("Segmenter.kt", "Resizing.kt", "Driver.kt")
SIZE = (80, 120)
PROMPTS = {
    "a point": Prompt(points=(Point(x=3.5, y=7),)),
    "two points": Prompt(points=(Point(x=0, y=0), Point(x=119, y=79.9))),
    "a box": Prompt(box=(10, 12.5, 90, 60)),
    "a box past the border": Prompt(box=(-5, -5, 200, 300)),
    "a point and a box": Prompt(points=(Point(x=20, y=20),), box=(1 / 3, 10, 90, 60)),
}


@pytest.fixture(scope="module")
def classes(kotlin: Kotlin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind at once, without LiteRT: the pure part needs nothing else."""
    folder = tmp_path_factory.mktemp("kinds")
    sources = []
    for kind, model in KINDS.items():
        files = packaged(manifest_for(model, "tflite"), folder / kind, package_of(kind))
        sources += [f for f in files if f.name in PURE]
    return kotlin.compile(sources, folder / "classes")


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(kind: str) -> ModelSpec:
    return KINDS[kind]


@pytest.fixture(scope="module")
def driver(
    kotlin: Kotlin, classes: Path, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Driver]:
    main = f"{package_of(kind)}.DriverKt"
    driver = Driver(kotlin.command(main, classes), tmp_path_factory.mktemp(kind))
    yield driver
    driver.close()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_image_is_preprocessed(driver: Driver, model: ModelSpec, size: tuple[int, int]) -> None:
    image = pixels(size)
    found = driver.ask("preprocess", size, image.tobytes())["image"]
    # Pillow before 13 takes the axes of a tall photograph in the other order.
    allowed = 1 if PILLOW < 13 and size[0] > 2 * size[1] else 0
    assert np.abs(found - encoder_image(image, model.preprocess).ravel()).max() <= allowed


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_logits_come_back(driver: Driver, model: ModelSpec, size: tuple[int, int]) -> None:
    low_res = logits(model)
    found = driver.ask("upscale", size, low_res.tobytes())["logits"]
    wanted = upscale_masks(low_res, frame_of(size, model.preprocess), model.masks)
    assert np.array_equal(found, wanted.ravel())


def words_of(prompt: Prompt, mask: str = "-") -> list[object]:
    points = [n for p in prompt.points for n in (p.x, p.y, p.label)]
    return [*(prompt.box or ("-",)), mask, *points]


def feeds_of(model: ModelSpec, prompt: Prompt) -> dict[str, Float32]:
    moved = prompt_to_model(prompt, frame_of(SIZE, model.preprocess))
    sample = Sample(image=pixels(SIZE), embeddings=np.zeros(0, np.float32), prompt=moved)
    feeds = dict(model.component("decoder").feeds(model.preprocess, sample))
    del feeds["image_embeddings"]
    return feeds


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt(driver: Driver, model: ModelSpec, name: str) -> None:
    found = driver.ask("prompt", SIZE, b"", *words_of(PROMPTS[name]))
    wanted = feeds_of(model, PROMPTS[name])
    assert found.keys() == wanted.keys()
    for tensor, value in wanted.items():
        assert np.array_equal(found[tensor], value.ravel()), tensor


def test_an_off_point(driver: Driver, model: ModelSpec) -> None:
    prompt = Prompt(points=(Point(x=1, y=2), Point(x=60, y=40, label=0)))
    if not model.prompts.negative_points:
        with pytest.raises(ValueError, match="label 0 is not a label of this model"):
            driver.ask("prompt", SIZE, b"", *words_of(prompt))
        return
    found = driver.ask("prompt", SIZE, b"", *words_of(prompt))
    wanted = feeds_of(model, prompt)
    assert np.array_equal(found["point_labels"], wanted["point_labels"].ravel())


def test_a_mask(driver: Driver, model: ModelSpec) -> None:
    prompt = Prompt(points=(Point(x=3, y=7),), mask_input=logits(model)[0])
    words = words_of(prompt, "mask")
    if not model.prompts.mask:
        with pytest.raises(ValueError, match="this model takes no mask"):
            driver.ask("prompt", SIZE, logits(model).tobytes(), *words)
        return
    found = driver.ask("prompt", SIZE, logits(model).tobytes(), *words)
    assert np.array_equal(found["mask_input"], logits(model).ravel())
    assert found["has_mask_input"].tolist() == [1.0]
    height, width = sides(model.masks.low_res_size)
    with pytest.raises(ValueError, match=f"a mask must have {height} x {width} logits"):
        driver.ask("prompt", SIZE, bytes(16), *words)


@pytest.mark.parametrize(
    "words",
    [
        ["-", "-"],
        ["-", "-", 120, 0, 1],
        ["-", "-", 0, -1, 1],
        ["-", "-", "NaN", 0, 1],
        ["-", "-", 1, 1, 2],
        ["-", "-", 1, 1, -1],
        [9, 5, 5, 9, "-"],
        ["NaN", 5, 15, 9, "-"],
        [0, 0, "Infinity", 9, "-"],
        [130, 0, 140, 9, "-"],
        ["-", "-", *[1, 1, 1] * 8, 1, 1, -1],
    ],
    ids=str,
)
def test_a_prompt_that_is_refused(driver: Driver, words: list[object]) -> None:
    with pytest.raises(ValueError, match=r"point|label|box"):
        driver.ask("prompt", SIZE, b"", *words)


def test_more_points_than_there_is_room_for(driver: Driver, model: ModelSpec) -> None:
    most = model.prompts.max_points
    if most is None:
        driver.ask("prompt", SIZE, b"", "-", "-", *[1, 1, 1] * 30)
        return
    driver.ask("prompt", SIZE, b"", "-", "-", *[1, 1, 1] * most)
    with pytest.raises(ValueError, match=f"takes at most {most} points, a box counting as two"):
        driver.ask("prompt", SIZE, b"", "-", "-", *[1, 1, 1] * (most + 1))


def test_the_choice(driver: Driver, model: ModelSpec) -> None:
    scores = np.asarray([0.5, 0.9, 0.1, 0.9][: len(model.masks.multimask) + 1], np.float32)
    best = sorted(model.masks.multimask, key=lambda i: -scores[i])
    found = driver.ask("choose", SIZE, scores.tobytes(), "best")["indices"]
    assert found.tolist() == best
    if model.masks.single:
        found = driver.ask("choose", SIZE, scores.tobytes(), "single")["indices"]
        assert tuple(found) == model.masks.single
    else:
        with pytest.raises(ValueError, match="no single mask"):
            driver.ask("choose", SIZE, scores.tobytes(), "single")


def test_an_invalid_image_is_refused(driver: Driver) -> None:
    for size, data in (((4, 4), bytes(64)), ((4, 4), bytes(16)), ((0, 4), b"")):
        with pytest.raises(ValueError, match="three bytes per pixel"):
            driver.ask("preprocess", size, data)


def test_pixels_of_a_bitmap(driver: Driver) -> None:
    image = pixels((4, 3)).astype(np.uint32)
    argb = 0xFF << 24 | image[..., 0] << 16 | image[..., 1] << 8 | image[..., 2]
    data = argb.astype(np.uint32).tobytes()
    found = driver.ask("imageOf", (4, 3), data, 1)["rgb"]
    assert np.array_equal(found.reshape(4, 3, 3), image)
    turned = driver.ask("imageOf", (4, 3), data, 6)
    assert turned["size"].tolist() == [3, 4]
    assert np.array_equal(turned["rgb"].reshape(3, 4, 3), np.rot90(image, -1))
