"""Parity files: all faults in one error."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import tomli_w

from effsam_export.config.parity import load_parity_images
from effsam_export.errors import UsageError
from tests.util import hostile_names

if TYPE_CHECKING:
    from pathlib import Path

NUMBERS = "needs points as [x, y, label] and a box as [x0, y0, x1, y1]"
PROMPTS = {
    "no table": ("1", "prompt name `None` is missing or used twice"),
    "no name": ("{ box = [1, 2, 3, 4] }", "prompt name `None` is missing or used twice"),
    "name twice": (
        '{ name = "a", box = [1, 2, 3, 4] }, { name = "a", box = [1, 2, 3, 4] }',
        "prompt name `a` is missing or used twice",
    ),
    "unknown key": (
        '{ name = "a", box = [1, 2, 3, 4], mask = "b" }',
        "prompt `a` has a key that is not `name`, `points`, `box` or `mask_from`",
    ),
    "mask from below": (
        '{ name = "a", box = [1, 2, 3, 4], mask_from = "b" }, { name = "b", box = [1, 2, 3, 4] }',
        "prompt `a` takes its mask from `b`, which is not an earlier prompt",
    ),
    "mask from a list": (
        '{ name = "a", box = [1, 2, 3, 4], mask_from = ["b"] }',
        "prompt `a` takes its mask from `['b']`, which is not an earlier prompt",
    ),
    "no prompt": ('{ name = "a" }', "prompt `a` has no point and no box"),
    "flat points": ('{ name = "a", points = [1, 2, 1] }', f"prompt `a` {NUMBERS}"),
    "point of two": ('{ name = "a", points = [[1, 2]] }', f"prompt `a` {NUMBERS}"),
    "point of words": ('{ name = "a", points = [["x", "y", 1]] }', f"prompt `a` {NUMBERS}"),
    "label": ('{ name = "a", points = [[1, 2, 7]] }', f"prompt `a` {NUMBERS}"),
    "box of three": ('{ name = "a", box = [1, 2, 3] }', f"prompt `a` {NUMBERS}"),
    "box as a word": ('{ name = "a", box = "abcd" }', f"prompt `a` {NUMBERS}"),
    "two faults": (
        '{ name = "a" }, { name = "b", box = [1, 2, 3] }',
        f"prompt `a` has no point and no box; image `x.jpg`: prompt `b` {NUMBERS}",
    ),
}
FILES = {
    "empty": ("", "`images` is missing"),
    "no image": ("images = []", "`images` is empty"),
    "images as a word": ('images = "x.jpg"', "`images` is not of type list"),
    "images as words": ('images = ["x.jpg"]', "`images` is not a table"),
    "no prompts": ('[[images]]\nfile = "x.jpg"', "`images.prompts` is missing"),
    "prompts empty": ('[[images]]\nfile = "x.jpg"\nprompts = []', "image `x.jpg` has no prompt"),
    "no file": ("[[images]]\nprompts = []", "`images.file` is missing"),
    "file is a number": ("[[images]]\nfile = 3\nprompts = []", "`images.file` is not of type str"),
    "unknown key": (
        '[[images]]\nflie = "x.jpg"\nprompts = []',
        "`images.file` is missing; unknown key `images.flie` (did you mean `file`?)",
    ),
    "two images": (
        '[[images]]\nfile = "x.jpg"\n[[images]]\nfile = "y.jpg"\nprompts = []',
        "`images.prompts` is missing; image `y.jpg` has no prompt",
    ),
}


def refusal(path: Path, text: str) -> str:
    path.write_text(text, "utf-8")
    with pytest.raises(UsageError) as caught:
        load_parity_images(path)
    return caught.value.message


@pytest.mark.parametrize(("text", "message"), FILES.values(), ids=FILES)
def test_faults_of_a_file(tmp_path: Path, text: str, message: str) -> None:
    found = refusal(tmp_path / "mine.toml", text)
    assert found == f"parity file `mine.toml`: {message}"


@pytest.mark.parametrize(("prompts", "message"), PROMPTS.values(), ids=PROMPTS)
def test_faults_of_prompts(tmp_path: Path, prompts: str, message: str) -> None:
    text = f'[[images]]\nfile = "x.jpg"\nprompts = [{prompts}]'
    found = refusal(tmp_path / "mine.toml", text)
    assert found == f"parity file `mine.toml`: image `x.jpg`: {message}"


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    with pytest.raises(UsageError) as caught:
        load_parity_images(path)
    assert caught.value.message == f"parity file `{path}` does not exist"


def test_names_that_are_no_file_names_are_refused(tmp_path: Path) -> None:
    for kind, name in hostile_names.bad_names(random.Random(24), 300):
        if any("\ud800" <= c <= "\udfff" for c in name):
            continue  # not even TOML
        prompt = tomli_w.dumps({"name": name, "points": [[1, 1, 1]]})
        text = f'[[images]]\nfile = "x.jpg"\n[[images.prompts]]\n{prompt}'
        message = refusal(tmp_path / "mine.toml", text)
        assert message.startswith("parity file `mine.toml`: image `x.jpg`: prompt name `"), kind
        assert message.isprintable(), kind
        assert len(message) < 400, kind


@pytest.mark.parametrize(("first", "second"), [("a", "A"), ("é", "e\u0301")])
def test_names_that_are_one_file_on_some_system_are_refused(
    tmp_path: Path, first: str, second: str
) -> None:
    prompts = ", ".join(f'{{ name = "{n}", points = [[1, 1, 1]] }}' for n in (first, second))
    text = f'[[images]]\nfile = "x.jpg"\nprompts = [{prompts}]'
    assert refusal(tmp_path / "mine.toml", text).endswith("is missing or used twice")
