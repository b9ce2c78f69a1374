"""Generated JavaScript for bundles that find instances: `effsam run`'s numbers.

A mask's logits are sums, and numpy adds in another order than JavaScript does. Where the summands
are multiples of a power of two every order gives the same sum, and masks are equal to the bit.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from effsam_export import models
from effsam_export.bundle import read
from effsam_export.imaging import instances
from effsam_export.imaging.images import encoder_image
from effsam_export.imaging.letterbox import fit
from effsam_export.inference import runner
from effsam_export.spec import sizes
from effsam_export.spec.prompts import Point, Prompt
from tests.bundle.fake import manifest_of
from tests.integrate.node import Loop
from tests.integrate.test_instances import (
    BOXED,
    OF_A_RECTANGLE,
    RECTANGLE,
    given,
    outputs_for,
    outputs_of_a_rectangle,
    prompts_on,
)
from tests.integrate.tools import (
    generate,
    import_file,
    manifest_for,
    pixels,
)
from tests.tiny_instances import TINY_INSTANCES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from effsam_export.spec.tensors import Feeds, Float32

pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.backend

FAST_SAM = models.get("fast-sam-s")
SIDE, _ = sizes.sides(FAST_SAM.preprocess.image_size)
NAMES = ("boxes", "scores", "mask_coefficients", "prototypes")
CUT = [(80, 120), (1, 1), (3, 1000), (1021, 1024), (1025, 1023), (300, 200)]
"""Sizes of images whose prototypes are cut, and boxes moved, in every way."""

# What is found in a graph's outputs goes to out.json, the masks one after the other to out.bin.
ANSWER = """
import { readFileSync, writeFileSync } from "node:fs";
import * as code from "./segmenter.mjs";
export function answer(ask) {
  const size = { width: ask.width, height: ask.height };
  const floats = (name) => new Float32Array(new Uint8Array(readFileSync(name + ".bin")).buffer);
  if (ask.photograph) {
    const data = new Uint8Array(readFileSync("in.bin"));
    writeFileSync("out.bin", new Uint8Array(code.preprocess({ ...size, data }).buffer));
  } else {
    const outputs = Object.fromEntries(ask.names.map((name) => [name, floats(name)]));
    const found = code.detect(outputs, size);
    const segmenter = new code.Segmenter(null, null);
    const answers = ask.prompts.map((prompt) => {
      try {
        return segmenter.predict(found, prompt);
      } catch (error) {
        return { masks: [], scores: [], said: error.message };
      }
    });
    const everything = ask.everything ? [...found.everything()] : [];
    const masks = [
      ...ask.masks.map((index) => found.mask(index)),
      ...answers.flatMap((answer) => answer.masks),
      ...everything.map(({ mask }) => mask),
    ];
    const plain = {
      boxes: found.boxes.map((box) => [...box]),
      scores: [...found.scores],
      coefficients: found.coefficients.map((values) => [...values]),
      answers: answers.map(({ scores, said }) => ({ scores: [...scores], said })),
      everything: everything.map(({ score }) => score),
    };
    writeFileSync("out.json", JSON.stringify(plain));
    writeFileSync("out.bin", Buffer.concat(masks));
  }
}
"""


class Driver(Loop):
    """Functions of the generated library, called in node."""

    def preprocess(self, image: Any) -> Float32:  # noqa: ANN401
        (self.folder / "in.bin").write_bytes(image.tobytes())
        self.ask({**sides(image.shape), "photograph": True})
        return np.fromfile(self.folder / "out.bin", np.float32)

    def find(
        self,
        outputs: Feeds,
        size: tuple[int, int],
        masks: Sequence[int] = (),
        prompts: Sequence[dict[str, Any]] = (),
        *,
        everything: bool = False,
    ) -> dict[str, Any]:
        """Everything found; `masks` are those asked for, then the answers', then everything's."""
        for name in NAMES:
            outputs[name].astype(np.float32).tofile(self.folder / f"{name}.bin")
        asked = {"masks": [*masks], "prompts": [*prompts], "everything": everything}
        self.ask({**sides(size), "names": NAMES, **asked})
        found: dict[str, Any] = json.loads((self.folder / "out.json").read_text())
        flat = np.fromfile(self.folder / "out.bin", np.uint8)
        found["masks"] = flat.reshape(-1, *size).astype(np.bool_)
        assert np.array_equal(found["masks"].ravel(), flat)
        return found


def sides(shape: tuple[int, ...]) -> dict[str, int]:
    return {"height": shape[0], "width": shape[1]}


def exact(outputs: Feeds) -> Feeds:
    """Numbers whose products add up to the same in every order: multiples of 1/64, below 2^5."""
    found = dict(outputs)
    for name in ("mask_coefficients", "prototypes"):
        found[name] = (np.rint(outputs[name] * 64) / 64).astype(np.float32)
        assert np.abs(found[name]).max() < 2**5
    return found


def outputs_of(bundle: Path, size: tuple[int, int]) -> Feeds:
    """What the tiny model's graph gives, in the native runtime."""
    feeds = {"image": encoder_image(pixels(size), TINY_INSTANCES.preprocess)}
    return read.open_session(read.read(bundle), "segmenter").run(feeds)


def plain(prompt: Prompt) -> dict[str, Any]:
    points, box = given(prompt)
    return {"points": points, "box": box}


def assert_equal(found: dict[str, Any], wanted: Any) -> None:  # noqa: ANN401
    for name in ("boxes", "scores", "coefficients"):
        there = np.asarray(found[name], np.float32).reshape(getattr(wanted, name).shape)
        assert np.array_equal(there, getattr(wanted, name)), name


# ------------------------------------------------------------------ the numbers of `effsam run`


@pytest.fixture(scope="module")
def fast_sam(node: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """Code for the real FastSAM's contract."""
    folder = generate(manifest_for(FAST_SAM), "js", tmp_path_factory.mktemp("fast"))
    driver = Driver(node, folder, ANSWER)
    yield driver
    driver.close()


@pytest.fixture(scope="module")
def tiny(
    node: str, exported_instances: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Driver]:
    """Code for the tiny model's contract."""
    folder = generate(manifest_of(exported_instances), "js", tmp_path_factory.mktemp("tiny"))
    driver = Driver(node, folder, ANSWER)
    yield driver
    driver.close()


@pytest.fixture(scope="module")
def rectangle(node: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """Code for FastSAM with an input that is not square."""
    folder = generate(manifest_for(RECTANGLE), "js", tmp_path_factory.mktemp("rectangle"))
    driver = Driver(node, folder, ANSWER)
    yield driver
    driver.close()


@pytest.mark.parametrize("size", OF_A_RECTANGLE, ids=str)
def test_an_input_that_is_not_square(rectangle: Driver, size: tuple[int, int]) -> None:
    image, outputs = pixels(size), exact(outputs_of_a_rectangle(size))
    wanted_fed = encoder_image(image, RECTANGLE.preprocess)
    assert np.array_equal(rectangle.preprocess(image), wanted_fed.ravel())
    wanted = instances.detect(outputs, fit(size, (640, 1024), square=True))
    found = rectangle.find(outputs, size, (0, 1, 150))
    assert_equal(found, wanted)
    for index, mask in zip((0, 1, 150), found["masks"], strict=True):
        assert np.array_equal(mask, wanted.mask(index))


@pytest.mark.parametrize("size", BOXED, ids=str)
def test_an_image_in_its_letterbox(fast_sam: Driver, size: tuple[int, int]) -> None:
    image = pixels(size)
    wanted = encoder_image(image, FAST_SAM.preprocess)
    assert np.array_equal(fast_sam.preprocess(image), wanted.ravel())


@pytest.mark.parametrize("size", CUT, ids=str)
def test_boxes_and_masks_of_any_outputs(fast_sam: Driver, size: tuple[int, int]) -> None:
    outputs = exact(outputs_for(size))
    wanted = instances.detect(outputs, fit(size, SIDE, square=True))
    asked = (0, 1, 150, 299)
    found = fast_sam.find(outputs, size, asked)
    assert len(found["scores"]) == 300  # the most
    assert_equal(found, wanted)
    for index, mask in zip(asked, found["masks"], strict=True):
        assert np.array_equal(mask, wanted.mask(index))


@pytest.mark.parametrize("size", [(80, 120), (150, 97), (1, 1)], ids=str)
def test_prompts_on_a_bundle(
    tiny: Driver,
    exported_instances: Path,
    known_instances: None,
    size: tuple[int, int],
) -> None:
    outputs = exact(outputs_of(exported_instances, size))
    wanted = instances.detect(outputs, fit(size, TINY_INSTANCES.preprocess.image_size, square=True))
    prompts = prompts_on(*size)
    asked = [plain(p) for p in prompts]
    found = tiny.find(outputs, size, (), asked, everything=True)
    assert_equal(found, wanted)
    assert len(wanted) > 30 or size == (1, 1)
    references = [runner.select_instance(TINY_INSTANCES, wanted, p) for p in prompts]
    for reference, answer in zip(references, found["answers"], strict=True):
        assert np.array_equal(np.asarray(answer["scores"], np.float32), reference.scores)
    everything = {i: mask for i, mask in enumerate(wanted.masks()) if mask.any()}
    assert found["everything"] == [float(wanted.scores[i]) for i in everything]
    masks = np.stack([*(r.masks[0] for r in references), *everything.values()])
    assert np.array_equal(found["masks"], masks)


def test_sums_in_another_order(
    tiny: Driver,
    instance_code: Path,
    exported_instances: Path,
    known_instances: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only a pixel whose logit is the threshold, within float32's rounding, may differ."""
    size = (150, 217)
    outputs = outputs_of(exported_instances, size)
    library = import_file(instance_code / "segmenter.py")
    wanted = library.detect(outputs, size)
    asked = range(0, len(wanted), 5)
    found = tiny.find(outputs, size, asked)
    assert_equal(found, wanted)
    for index, mask in zip(asked, found["masks"], strict=True):
        # 32 roundings in the sum there and 1 here, then for each of 2 axes, here and there, 2 of a
        # difference, which is up to twice as large, and 1 of a sum.
        summands = np.tensordot(np.abs(wanted.coefficients[index]), np.abs(wanted.prototypes), 1)
        noise = (32 + 1 + 2 * 2 * 5) * 2.0**-24 * float(summands.max())
        monkeypatch.setattr(library, "THRESHOLD", noise)
        assert not (wanted.mask(index) & ~mask).any()
        monkeypatch.setattr(library, "THRESHOLD", -noise)
        assert not (mask & ~wanted.mask(index)).any()


def test_scores_at_the_limit(fast_sam: Driver) -> None:
    """0.4 itself, as float32 has it, is not greater than 0.4."""
    limit = np.float32(instances.CONFIDENCE)
    outputs = dict(outputs_for((80, 120)))
    outputs["scores"] = np.zeros((1, 701), np.float32)
    outputs["scores"][0, :3] = np.nextafter(limit, np.float32(0)), limit, np.nextafter(limit, 1)
    found = fast_sam.find(outputs, (80, 120))
    assert found["scores"] == [float(outputs["scores"][0, 2])]


def test_boxes_that_cover_another_to_the_limit(fast_sam: Driver) -> None:
    """An IoU of 0.9 is on either side of the limit by how float32 rounds on the way to it."""
    generator = np.random.Generator(np.random.PCG64(3))
    cells = np.stack(np.meshgrid(np.arange(12), np.arange(12)), axis=-1).reshape(-1, 2)
    low = cells * 80 + generator.uniform(0, 10, cells.shape)
    sides = generator.uniform(40, 70, cells.shape)
    pairs = [low, low + sides, low, low + sides * (1, instances.NMS_IOU)]
    boxes = np.stack(pairs, axis=1).reshape(-1, 4).astype(np.float32)
    count = len(boxes)
    outputs = {
        "boxes": boxes[None],
        "scores": np.linspace(0.9, 0.5, count, dtype=np.float32)[None],
        "mask_coefficients": np.zeros((1, count, 32), np.float32),
        "prototypes": np.zeros((1, 32, 256, 256), np.float32),
    }
    wanted = instances.detect(outputs, fit((SIDE, SIDE), SIDE, square=True))
    assert count / 2 < len(wanted) < count
    assert_equal(fast_sam.find(outputs, (SIDE, SIDE)), wanted)


def test_a_logit_at_the_limit(fast_sam: Driver) -> None:
    """The threshold itself is not greater than it, and an empty mask is nothing."""
    outputs = dict(outputs_for((80, 120)))
    outputs["scores"][0, 12:] = 0
    outputs["prototypes"] = np.ones((1, 32, 256, 256), np.float32)
    outputs["mask_coefficients"] = np.zeros((1, 701, 32), np.float32)
    outputs["mask_coefficients"][0, ::2] = 1
    wanted = instances.detect(outputs, fit((80, 120), SIDE, square=True))
    found = fast_sam.find(outputs, (80, 120), everything=True)
    pairs = zip(wanted.masks(), wanted.scores, strict=True)
    assert found["everything"] == [float(score) for mask, score in pairs if mask.any()]
    assert 0 < len(found["everything"]) < len(wanted)


def test_nothing_found(fast_sam: Driver) -> None:
    outputs = {**outputs_for((80, 120)), "scores": np.zeros((1, 701), np.float32)}
    prompts: list[dict[str, Any]] = [{"points": [[1, 1, 1]]}, {"box": [1, 1, 9, 9]}]
    found = fast_sam.find(outputs, (80, 120), (), prompts, everything=True)
    assert (found["boxes"], found["everything"]) == ([], [])
    assert [a["scores"] for a in found["answers"]] == [[0], [0]]
    assert (found["masks"].shape, found["masks"].any()) == ((2, 80, 120), False)


def test_prompts_that_are_refused(fast_sam: Driver) -> None:
    cases = {
        "no point and no box": Prompt(),
        "outside the image": Prompt(points=(Point(x=120, y=0),)),
        "label 2": Prompt(points=(Point(x=1, y=1, label=2),)),
        "box is empty": Prompt(box=(5, 5, 5, 9)),
        "box is outside": Prompt(box=(120, 0, 130, 9)),
        "points or a box": Prompt(points=(Point(x=1, y=1),), box=(5, 5, 9, 9)),
    }
    prompts = [plain(p) for p in cases.values()]
    found = fast_sam.find(outputs_for((80, 120)), (80, 120), (), prompts)
    for said, answer in zip(cases, found["answers"], strict=True):
        assert said in answer["said"]
