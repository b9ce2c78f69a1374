"""Generated C++ for bundles that find instances, without a runtime: `effsam run`'s numbers."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from effsam_export import models
from effsam_export.errors import UsageError
from effsam_export.imaging import instances
from effsam_export.imaging.images import encoder_image
from effsam_export.imaging.letterbox import fit
from effsam_export.integrate import cpp
from effsam_export.integrate.instances import instance_contract_of
from effsam_export.spec.prompts import Point, Prompt
from tests.integrate.cpp_answers import CODE, DETAILS, answers_of, asked_by, check_mask
from tests.integrate.test_cpp import value_of
from tests.integrate.test_instances import (
    BOXED,
    OF_A_RECTANGLE,
    RECTANGLE,
    REFUSED,
    outputs_for,
    outputs_of_a_rectangle,
)
from tests.integrate.tools import generate, manifest_for, pixels

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.tensors import Feeds
    from tests.integrate.native import Compiler

# ------------------------------------------------------------------ numbers


def built(model: ModelSpec, compiler: Compiler, folder: Path) -> Path:
    """A model's contract, on a graph whose outputs the test sets."""
    generate(manifest_for(model, "openvino"), "cpp", folder)
    shutil.copy(CODE / "given.cpp", folder / "effsam_graph.cpp")
    shutil.copy(CODE / "answers.cpp", folder)
    return compiler.compile(folder, "answers.cpp", None)


@pytest.fixture(scope="module")
def program(compiler: Compiler, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real FastSAM's contract."""
    return built(models.get("fast-sam-s"), compiler, tmp_path_factory.mktemp("fast"))


@pytest.fixture(scope="module")
def rectangle(compiler: Compiler, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That with an input that is not square."""
    return built(RECTANGLE, compiler, tmp_path_factory.mktemp("rectangle"))


def give(program: Path, outputs: Feeds) -> None:
    """What the graph gives from now on: four sides, and the values."""
    for name, value in outputs.items():
        sides = np.asarray((*value.shape, 1, 1)[:4], np.float32)
        content = [sides, np.asarray(value, np.float32).ravel()]
        np.concatenate(content).tofile(program.parent / f"{name}.bin")


@pytest.mark.parametrize("size", BOXED, ids=str)
def test_numbers_of_any_outputs(program: Path, size: tuple[int, int]) -> None:
    outputs, image, few = outputs_for(size), pixels(size), (0, 150, 299)
    give(program, outputs)
    asked = [word for index in few for word in ("mask", index)]
    found = answers_of(program, program.parent, image, *asked)
    fed = np.fromfile(program.parent / "fed.bin", np.float32)
    wanted_fed = encoder_image(image, models.get("fast-sam-s").preprocess)
    assert np.array_equal(fed, wanted_fed.ravel())
    wanted = instances.detect(outputs, fit(size, 1024, square=True))
    assert len(found.scores) == 300  # the most
    for name in DETAILS:
        assert np.array_equal(getattr(found, name), getattr(wanted, name)), name
    assert found.masks.any() or min(size) < 8
    for index, mask in zip(few, found.masks, strict=True):
        check_mask(mask, wanted, index)


@pytest.mark.parametrize("size", OF_A_RECTANGLE, ids=str)
def test_an_input_that_is_not_square(rectangle: Path, size: tuple[int, int]) -> None:
    outputs, image = outputs_of_a_rectangle(size), pixels(size)
    give(rectangle, outputs)
    found = answers_of(rectangle, rectangle.parent, image, "mask", 0, "mask", 150)
    fed = np.fromfile(rectangle.parent / "fed.bin", np.float32)
    assert np.array_equal(fed, encoder_image(image, RECTANGLE.preprocess).ravel())
    wanted = instances.detect(outputs, fit(size, (640, 1024), square=True))
    for name in DETAILS:
        assert np.array_equal(getattr(found, name), getattr(wanted, name)), name
    for index, mask in zip((0, 150), found.masks, strict=True):
        check_mask(mask, wanted, index)


def test_scores_at_the_limit_and_none(program: Path) -> None:
    """0.4 itself, as float32 has it, is not greater than 0.4."""
    limit, scores = np.float32(0.4), np.zeros((1, 701), np.float32)
    scores[0, :3] = np.nextafter(limit, np.float32(0)), limit, np.nextafter(limit, np.float32(1))
    give(program, {**outputs_for((80, 120)), "scores": scores})
    found = answers_of(program, program.parent, pixels((80, 120)))
    assert found.scores.tolist() == [scores[0, 2]]
    give(program, {"scores": np.zeros((1, 701))})
    prompts = [Prompt(points=(Point(x=1, y=1),)), Prompt(box=(1, 1, 9, 9))]
    asked = [word for p in prompts for word in asked_by(p)]
    found = answers_of(program, program.parent, pixels((80, 120)), "everything", *asked)
    assert (len(found.scores), found.masks.shape) == (0, (2, 80, 120))
    assert not found.masks.any()
    assert found.mask_scores.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("prompt", "said"),
    REFUSED,
    ids=repr,
)
def test_a_prompt_that_is_refused(program: Path, prompt: Prompt, said: str) -> None:
    give(program, outputs_for((80, 120)))
    with pytest.raises(ValueError, match=said):
        answers_of(program, program.parent, pixels((80, 120)), *asked_by(prompt))


# ------------------------------------------------------------------ the files


@pytest.mark.parametrize("backend", cpp.BACKENDS)
def test_constants_are_the_contract(backend: str) -> None:
    contract = instance_contract_of(manifest_for(models.get("fast-sam-s"), backend))
    files = cpp.instance_files(contract)
    pattern = r"^inline const.* ([A-Z_]+)(?:\[\])? =\s+(.*);$"
    text = files["effsam_segmenter.hpp"]
    found = {n: value_of(v) for n, v in re.findall(pattern, text, re.MULTILINE)}
    names = [n for n in found if hasattr(contract, n.lower())]
    assert {n: found.pop(n) for n in names} == {n: getattr(contract, n.lower()) for n in names}
    assert len(names) == 13
    assert (found.pop("IMAGE_HEIGHT"), found.pop("IMAGE_WIDTH")) == (1024, 1024)
    assert found == {
        "CONTRACT": contract.fingerprint,
        "SEGMENTER_FILE": "segmenter.onnx",
        "IMAGE": "image",
        "BOXES": "boxes",
        "SCORES": "scores",
        "COEFFICIENTS": "mask_coefficients",
        "PROTOTYPES": "prototypes",
    }
    # None of them is there for show.
    for name in {*names, *found} - {"CONTRACT"}:
        assert re.search(rf"\b{name}\b", files["effsam_segmenter.cpp"]), name


@pytest.mark.parametrize("backend", ["onnx", "tflite"])
def test_only_the_binding_needs_the_runtime(
    compiler: Compiler, tmp_path: Path, backend: str
) -> None:
    manifest = manifest_for(models.get("fast-sam-s"), backend)
    compiler.check(generate(manifest, "cpp", tmp_path), "effsam_segmenter.cpp")


def test_options_that_are_refused() -> None:
    manifest = manifest_for(models.get("fast-sam-s"), "tflite")
    for options, said in (
        ({"delegate": "gpu"}, "GPU delegate"),
        ({"provider": "CUDAExecutionProvider"}, "is for ONNX Runtime's `CUDAExecutionProvider`"),
        ({"num_threads": "many"}, "num_threads is"),
    ):
        manifest["target"]["options"] = options
        with pytest.raises(UsageError, match=said):
            cpp.instance_files(instance_contract_of(manifest))
