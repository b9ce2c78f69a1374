"""Generated Python for bundles that find instances: `effsam run`'s numbers, to the bit."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from effsam_export import cli, models
from effsam_export.bundle import read
from effsam_export.errors import PromptError
from effsam_export.imaging import instances
from effsam_export.imaging.images import check_prompt, encoder_image
from effsam_export.imaging.letterbox import fit
from effsam_export.inference import automatic_masks, runner
from effsam_export.inference.predictor import Predictor
from effsam_export.models import image_sizes
from effsam_export.spec.prompts import Point, Prompt
from tests.integrate.tools import (
    SIZES,
    generate,
    import_file,
    manifest_for,
    pixels,
)
from tests.tiny_instances import TINY_INSTANCES

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from effsam_export.spec.tensors import Feeds

pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.backend

BOXED = [*SIZES, (2, 1023), (1021, 1024), (1025, 2048), (300, 200)]
"""With halves in the sides and in the padding, and a way back that is not the way there."""
RECTANGLE = image_sizes.resized(models.get("fast-sam-s"), (640, 1024))
OF_A_RECTANGLE = [(80, 120), (333, 217), (300, 2000), (1025, 1023)]
"""Images wider and higher than the input."""
PHOTOGRAPHS = [(80, 120), (333, 217), (256, 256), (500, 700), (1, 1), (1024, 7)]
"""(height, width); on the last two nothing is found."""
REFUSED = [
    (Prompt(), "no point and no box"),
    (Prompt(points=(Point(x=120, y=0),)), "outside the image"),
    (Prompt(points=(Point(x=1, y=float("nan")),)), "outside the image"),
    (Prompt(points=(Point(x=1, y=1, label=2),)), "label 2"),
    (Prompt(box=(5, 5, 5, 9)), "box is empty"),
    (Prompt(box=(120, 0, 130, 9)), "box is outside"),
    (Prompt(points=(Point(x=1, y=1),), box=(5, 5, 9, 9)), "points or a box"),
]
"""Prompts that this kind of model does not take, and what is said of them."""


@pytest.fixture(scope="session")
def library(instance_code: Path) -> ModuleType:
    return import_file(instance_code / "segmenter.py")


# ------------------------------------------------------------------ the numbers of `effsam run`


def prompts_on(height: int, width: int) -> list[Prompt]:
    """Points and boxes of every kind that the model takes."""
    points = [Point(x=width * x, y=height * y) for x, y in ((0.5, 0.5), (0.3, 0.4), (0.8, 0.9))]
    off = Point(x=width * 0.5, y=height * 0.6, label=0)
    return [
        Prompt(points=(points[0],)),
        Prompt(points=(points[1], points[2])),
        Prompt(points=(points[1], off, points[2])),
        Prompt(points=(off,)),
        Prompt(box=(width * 0.1, height * 0.1, width * 0.6, height * 0.7)),
        Prompt(box=(-9.5, height * 0.5, width + 0.5, height * 2)),
    ]


def given(prompt: Prompt) -> tuple[object, ...]:
    return [(p.x, p.y, p.label) for p in prompt.points], prompt.box


@pytest.mark.parametrize("size", PHOTOGRAPHS, ids=str)
def test_prompts_on_a_bundle(
    library: ModuleType, exported_instances: Path, known_instances: None, size: tuple[int, int]
) -> None:
    bundle = read.read(exported_instances)
    image = pixels(size)
    wanted = runner.find_instances(bundle.model, read.open_session(bundle, "segmenter"), image)
    segmenter = library.Segmenter(exported_instances)
    found = segmenter.find(image)
    assert len(found) == len(wanted)
    assert len(found) > 30 or size in PHOTOGRAPHS[-2:]
    for name in ("boxes", "scores", "coefficients", "prototypes"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name)), name
    answered = 0
    for prompt in prompts_on(*size):
        answer = segmenter.predict(found, *given(prompt))
        reference = runner.select_instance(bundle.model, wanted, prompt)
        assert (answer.masks.shape, answer.masks.dtype) == ((1, *size), np.bool_)
        assert np.array_equal(answer.masks, reference.masks)
        assert np.array_equal(answer.scores, reference.scores)
        answered += bool(answer.masks.any())
    assert answered >= 4 or not len(found)


def test_the_command_finds_the_same(
    library: ModuleType, instance_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in, `effsam run --masks` out; and all masks without a prompt."""
    image = pixels((120, 180))
    file, output = tmp_path / "photo.png", tmp_path / "masks.npz"
    Image.fromarray(image).save(file)
    segmenter = library.Segmenter(instance_bundle)
    found = segmenter.find(image)
    for options, prompt in (
        (["--point", "90,60", "--point", "30,30,0"], ([(90, 60, 1), (30, 30, 0)], None)),
        (["--box", "20,10,150,100"], ([], (20, 10, 150, 100))),
    ):
        arguments = ["effsam", "run", instance_bundle, file, *options, "--masks", output]
        monkeypatch.setattr(
            sys, "argv", [*map(str, arguments), "--output", str(tmp_path / "o.png")]
        )
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        answer = segmenter.predict(found, *prompt)
        with np.load(output) as content:
            assert content["masks"].any()
            assert np.array_equal(answer.masks, content["masks"])
            assert np.array_equal(answer.scores, content["scores"])
    with Predictor(instance_bundle) as predictor:
        predictor.set_image(file)
        wanted = predictor.records()
    answers = list(found.everything())
    assert len(answers) == len(wanted) > 30
    for (mask, score), record in zip(answers, wanted, strict=True):
        assert np.array_equal(mask, record.decoded())
        assert score == record.score


@pytest.fixture(scope="module")
def fast_sam(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """Code for the real FastSAM's contract."""
    manifest = manifest_for(models.get("fast-sam-s"))
    return import_file(
        generate(manifest, "python", tmp_path_factory.mktemp("fast")) / "segmenter.py"
    )


@pytest.fixture(scope="module")
def rectangle(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """Code for FastSAM with an input that is not square."""
    folder = generate(manifest_for(RECTANGLE), "python", tmp_path_factory.mktemp("rectangle"))
    return import_file(folder / "segmenter.py")


@pytest.mark.parametrize("size", BOXED, ids=str)
def test_an_image_in_its_letterbox(fast_sam: ModuleType, size: tuple[int, int]) -> None:
    image = pixels(size)
    found = fast_sam.preprocess(image)
    wanted = encoder_image(image, models.get("fast-sam-s").preprocess)
    assert (found.dtype, found.shape) == (np.float32, wanted.shape)
    assert np.array_equal(found, wanted)


def outputs_for(size: tuple[int, int]) -> Feeds:
    """Boxes anywhere, many of them near each other, near the border or over everything."""
    generator = np.random.Generator(np.random.PCG64(size[0] * 10_000 + size[1]))
    centres = generator.uniform(0, 1024, (600, 2)).astype(np.float32)
    sides = generator.choice([8, 60, 400, 1000], (600, 2)) * generator.uniform(0.5, 1.1, (600, 2))
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1).astype(np.float32)
    close = boxes[:100] + generator.uniform(-2, 2, (100, 4)).astype(np.float32)
    whole = np.asarray([[512 - 505, 512 - 505, 512 + 500, 512 + 500]], dtype=np.float32)
    scores = generator.uniform(0.2, 1, 701).astype(np.float32)
    scores[50:60] = scores[150:160]  # equal ones
    return {
        "boxes": np.concatenate([boxes, close, whole])[None],
        "scores": scores[None],
        "mask_coefficients": generator.standard_normal((1, 701, 32)).astype(np.float32),
        "prototypes": generator.standard_normal((1, 32, 256, 256)).astype(np.float32),
    }


@pytest.mark.parametrize("size", BOXED, ids=str)
def test_boxes_and_masks_of_any_outputs(fast_sam: ModuleType, size: tuple[int, int]) -> None:
    outputs = outputs_for(size)
    wanted = instances.detect(outputs, fit(size, 1024, square=True))
    found = fast_sam.detect(outputs, size)
    assert len(found) == 300  # the most
    for name in ("boxes", "scores", "coefficients", "prototypes"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name)), name
    for index in (0, 1, 2, 150, 299):
        assert np.array_equal(found.mask(index), wanted.mask(index))


def outputs_of_a_rectangle(size: tuple[int, int]) -> Feeds:
    """The same for `RECTANGLE`, whose prototypes are not square."""
    outputs = outputs_for(size)
    return {**outputs, "prototypes": outputs["prototypes"][:, :, :160]}


@pytest.mark.parametrize("size", OF_A_RECTANGLE, ids=str)
def test_an_input_that_is_not_square(rectangle: ModuleType, size: tuple[int, int]) -> None:
    image, outputs = pixels(size), outputs_of_a_rectangle(size)
    assert np.array_equal(rectangle.preprocess(image), encoder_image(image, RECTANGLE.preprocess))
    wanted = instances.detect(outputs, fit(size, (640, 1024), square=True))
    found = rectangle.detect(outputs, size)
    for name in ("boxes", "scores", "coefficients", "prototypes"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name)), name
    for index in (0, 1, 150):
        assert np.array_equal(found.mask(index), wanted.mask(index))


def test_scores_at_the_limit(fast_sam: ModuleType) -> None:
    """0.4 itself, as float32 has it, is not greater than 0.4."""
    limit = np.float32(0.4)
    outputs = dict(outputs_for((80, 120)))
    outputs["scores"] = np.zeros((1, 701), np.float32)
    outputs["scores"][0, :3] = np.nextafter(limit, np.float32(0)), limit, np.nextafter(limit, 1)
    found = fast_sam.detect(outputs, (80, 120))
    wanted = instances.detect(outputs, fit((80, 120), 1024, square=True))
    assert found.scores.tolist() == wanted.scores.tolist()
    assert len(found) == 1


def test_empty_masks_are_nothing(fast_sam: ModuleType) -> None:
    outputs = dict(outputs_for((80, 120)))
    outputs["scores"][0, 12:] = 0
    outputs["prototypes"] = np.ones((1, 32, 256, 256), np.float32)
    outputs["mask_coefficients"] = np.full((1, 701, 32), -1, np.float32)
    outputs["mask_coefficients"][0, ::2] = 1
    found = fast_sam.detect(outputs, (80, 120))
    wanted = automatic_masks.from_instances(
        instances.detect(outputs, fit((80, 120), 1024, square=True))
    )
    answers = list(found.everything())
    assert 0 < len(answers) < len(found)
    assert [score for _, score in answers] == [w.score for w in wanted]


def test_nothing_found(fast_sam: ModuleType) -> None:
    outputs = {**outputs_for((80, 120)), "scores": np.zeros((1, 701), np.float32)}
    found = fast_sam.detect(outputs, (80, 120))
    assert len(found) == 0
    assert list(found.everything()) == []
    for mask, score in (
        fast_sam.by_points(found, [(1, 1, 1)]),
        fast_sam.by_box(found, (1, 1, 9, 9)),
    ):
        assert (mask.shape, mask.any(), score) == ((80, 120), False, 0.0)


@pytest.mark.parametrize(
    ("prompt", "said"),
    REFUSED,
    ids=repr,
)
def test_a_prompt_that_is_refused(
    library: ModuleType, exported_instances: Path, prompt: Prompt, said: str
) -> None:
    segmenter = library.Segmenter(exported_instances)
    found = library.detect(segmenter.run(pixels((80, 120))), (80, 120))
    with pytest.raises(ValueError, match=said):
        segmenter.predict(found, *given(prompt))
    with pytest.raises(PromptError):
        check_prompt(prompt, (80, 120), TINY_INSTANCES.prompts)
