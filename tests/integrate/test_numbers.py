"""Generated Python gives bit-exact images, prompts and masks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL
import pytest

from effsam_export.imaging.images import (
    check_prompt,
    encoder_image,
    frame_of,
    prompt_to_model,
    resize,
    unsupported_parts,
    upscale_masks,
)
from effsam_export.spec.prompts import Point, Prompt, Sample
from tests.integrate.tools import KINDS, SIZES, generate, import_file, logits, manifest_for, pixels

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

    from effsam_export.spec.model import ModelSpec

PROMPTS = {
    "a point": Prompt(points=(Point(x=3.5, y=7),)),
    "two points": Prompt(points=(Point(x=0, y=0), Point(x=119, y=79.9))),
    "an off point": Prompt(points=(Point(x=1, y=2), Point(x=60, y=40, label=0))),
    "a box": Prompt(box=(10, 12.5, 90, 60)),
    "a box past the border": Prompt(box=(-5, -5, 200, 300)),
    "a point and a box": Prompt(points=(Point(x=20, y=20),), box=(1 / 3, 10, 90, 60)),
    "five points": Prompt(points=tuple(Point(x=9.0 * i, y=5.0 * i) for i in range(5))),
    "a mask": Prompt(points=(Point(x=3, y=7),), mask_input=logits(KINDS["pad"])[0]),
}
SIZE = (80, 120)
PILLOW = int(PIL.__version__.split(".")[0])


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(kind: str) -> ModelSpec:
    return KINDS[kind]


@pytest.fixture(scope="module")
def code(kind: str, model: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    folder = generate(manifest_for(model), "python", tmp_path_factory.mktemp(kind))
    return import_file(folder / "segmenter.py")


# ------------------------------------------------------------------ images


def allowed(size: tuple[int, ...]) -> int:
    """How far a value may be off: Pillow before 13 takes the axes of a tall image in one order."""
    return 1 if PILLOW < 13 and size[0] > 2 * size[1] else 0


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_image_is_preprocessed(
    code: ModuleType, model: ModelSpec, size: tuple[int, int]
) -> None:
    image = pixels(size)
    found = code.preprocess(image)
    wanted = encoder_image(image, model.preprocess)
    assert (found.dtype, found.shape) == (np.float32, wanted.shape)
    assert np.abs(found - wanted).max() <= allowed(image.shape[:2])


def test_every_ratio_of_pillows_filter(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Shrunk and enlarged by many factors, one side and both: no weight is rounded otherwise."""
    folder = generate(manifest_for(KINDS["pad"]), "python", tmp_path_factory.mktemp("filter"))
    code = import_file(folder / "segmenter.py")
    generator = np.random.Generator(np.random.PCG64(3))
    for _ in range(200):
        old, new = generator.integers(1, 400, 2), generator.integers(1, 400, 2)
        image = generator.integers(0, 256, (*old, 3), dtype=np.uint8)
        found = code.resize_antialiased(image, int(new[0]), int(new[1]))
        wanted = resize(image, (int(new[0]), int(new[1])))
        apart = np.abs(found.astype(np.int64) - wanted).max()
        assert apart <= (1 if PILLOW < 13 else 0), (old, new)


def test_the_order_of_the_axes(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Rows first where the height shrinks by more than twice as many pixels as the width."""
    if PILLOW < 13:
        pytest.skip("Pillow before 13 always begins with the columns")
    folder = generate(manifest_for(KINDS["pad"]), "python", tmp_path_factory.mktemp("order"))
    code = import_file(folder / "segmenter.py")
    for old, new in [
        ((120, 60), (99, 50)),
        ((120, 60), (100, 50)),
        ((120, 60), (101, 50)),
        ((120, 60), (119, 60)),
        ((120, 60), (119, 70)),
        ((120, 60), (121, 70)),
        ((120, 60), (130, 40)),
        ((2400, 1100), (1024, 469)),
        ((1100, 2400), (469, 1024)),
    ]:
        image = pixels(old)
        assert np.array_equal(code.resize_antialiased(image, *new), resize(image, new)), (old, new)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
    ids=["alpha", "grey", "float", "empty"],
)
def test_an_invalid_image_is_refused(code: ModuleType, image: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="uint8 HxWx3"):
        code.preprocess(image)


# ------------------------------------------------------------------ prompts


def given(prompt: Prompt) -> tuple[object, ...]:
    return [(p.x, p.y, p.label) for p in prompt.points], prompt.box, prompt.mask_input


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt(code: ModuleType, model: ModelSpec, name: str) -> None:
    prompt = PROMPTS[name]
    if prompt.mask_input is not None:
        prompt = replace(prompt, mask_input=logits(model)[0])
    if unsupported_parts(prompt, model.prompts):
        with pytest.raises(ValueError, match="model"):
            code.prompt_tensors(SIZE, *given(prompt))
        return
    moved = prompt_to_model(prompt, frame_of(SIZE, model.preprocess))
    sample = Sample(image=pixels(SIZE), embeddings=np.zeros(0, np.float32), prompt=moved)
    wanted = dict(model.component("decoder").feeds(model.preprocess, sample))
    del wanted["image_embeddings"]
    found = code.prompt_tensors(SIZE, *given(prompt))
    assert found.keys() == wanted.keys()
    for tensor, value in wanted.items():
        assert found[tensor].dtype == np.float32
        assert np.array_equal(found[tensor], value), tensor


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(),
        Prompt(points=(Point(x=120, y=0),)),
        Prompt(points=(Point(x=0, y=-1),)),
        Prompt(points=(Point(x=float("nan"), y=1),)),
        Prompt(points=(Point(x=1, y=1, label=2),)),
        Prompt(points=(Point(x=1, y=1, label=-1),)),
        Prompt(box=(5, 5, 5, 9)),
        Prompt(box=(9, 5, 5, 9)),
        Prompt(box=(0, 0, float("inf"), 9)),
        Prompt(box=(float("nan"), 0, 5, 9)),
        Prompt(box=(120, 0, 130, 9)),
        Prompt(points=tuple(Point(x=1, y=1) for _ in range(9)), box=(0, 0, 5, float("nan"))),
    ],
    ids=repr,
)
def test_a_prompt_that_the_reference_refuses(
    code: ModuleType, model: ModelSpec, prompt: Prompt
) -> None:
    with pytest.raises(ValueError, match=r"point|box|label"):
        code.prompt_tensors(SIZE, *given(prompt))
    # The reference says no to the same.
    from effsam_export.errors import PromptError

    with pytest.raises(PromptError):
        check_prompt(prompt, SIZE, model.prompts)


def test_a_mask_of_another_size(code: ModuleType) -> None:
    with pytest.raises(ValueError, match="mask"):
        code.prompt_tensors(SIZE, [(1, 1, 1)], None, np.zeros((128, 128), np.float32))


# ------------------------------------------------------------------ masks


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_logits_come_back(code: ModuleType, model: ModelSpec, size: tuple[int, int]) -> None:
    low_res = logits(model, 2)
    found = code.upscale(low_res, size)
    wanted = upscale_masks(low_res, frame_of(size, model.preprocess), model.masks)
    assert found.shape == (2, *size)
    assert np.array_equal(found, wanted)


def test_the_choice(code: ModuleType, model: ModelSpec) -> None:
    scores = np.asarray([0.5, 0.9, 0.1, 0.9][: len(model.masks.multimask) + 1], np.float32)
    best = sorted(model.masks.multimask, key=lambda i: -scores[i])
    assert code.choose(scores) == tuple(best)
    if model.masks.single:
        assert code.choose(scores, True) == model.masks.single
    else:
        with pytest.raises(ValueError, match="no single mask"):
            code.choose(scores, True)
