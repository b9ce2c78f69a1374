"""Hostile TOML files: every reader returns its value or raises one `UsageError`."""

from __future__ import annotations

import math
import os
import random
import time
from typing import TYPE_CHECKING, Any

import pytest
import tomli_w

from effsam_export.config.toml import MAX_BYTES, read_toml
from effsam_export.errors import UsageError
from effsam_export.matrix import config as build_file
from tests.config.hostile_toml import BUILD_FILE, KINDS, READERS, parse, valid_files

if TYPE_CHECKING:
    from pathlib import Path

SAMPLE = 12
"""Files of each kind in the quick tests."""
MAX_SECONDS = 5
MAX_MESSAGE = 20_000
FILES = {kind: text for kind, text in valid_files() if kind != "build"} | {"build": BUILD_FILE}


@pytest.mark.parametrize("kind", KINDS)
def test_one_error_or_a_value(tmp_path: Path, kind: str) -> None:
    choice = random.Random(f"quick {kind}")
    path = tmp_path / "case.toml"
    for number in range(SAMPLE):
        reader, text = choice.choice(valid_files())
        path.write_bytes(KINDS[kind](choice, text))
        start, message = time.perf_counter(), ""
        try:
            READERS[reader](path)
        except UsageError as error:
            message = error.message
        assert len(message) <= MAX_MESSAGE, (number, message[:200])
        assert message.isprintable(), (number, message[:200])
        assert time.perf_counter() - start < MAX_SECONDS, number


NAN = math.nan
WRONG: list[tuple[str, str, list[Any]]] = [
    ("target", "gates.fp32.cosine", [NAN, math.inf, -0.1, 1.1, True, "1", [1], {}]),
    ("target", "gates.fp32.score_error", [NAN, -1, 2, False]),
    ("target", "gates.fp16.mean_iou", [NAN, -1, 2, False]),
    ("target", "gates", [{}, [], 1, {"fp32": 1}, {"fp61": {}}]),
    ("target", "precisions", [[], [1], [[]], ["fp32", "fp32"], "fp32", {}]),
    ("target", "opset", [True, 17, 10**10, 18.0, -18]),
    ("target", "options", [[], {"x": 1}, {"device": ["CPU"]}, {"device": "a\0"}]),
    ("calibration", "num_samples", [0, -1, 10**10, 20.0, True]),
    ("calibration", "seed", [-1, 2**63 - 1, 0.5, False]),
    ("calibration", "images", [[], [1], [""], ["a\0"], [[]], "a.jpg", {}]),
    ("calibration", "crops.smallest", [0, NAN, -1, 1.5, math.inf, True]),
    ("calibration", "crops.flip", [1, "true", []]),
    ("calibration", "prompts.per_sample", [0, -4, 10**10, 1.5]),
    ("calibration", "crops", [{}, [], 1, [{}]]),
    ("calibration", "prompts", [{}, [], 1, [{}]]),
    ("int8", "measured", [1, {}, [], "\x1b[2J"]),
    ("int8", "encoder", [{}, 1, [], {"default": {}}, {"default": []}, {"x": {}}]),
    ("int8", "encoder.default.scheme", ["w4", "", 8, ["w8a8"]]),
    ("int8", "encoder.default.equalize", [1, [1], [{}], {"norm": "a"}]),
    (
        "int8",
        "encoder.default.equalize",
        [
            *([{"norm": "a", "layer": "b", "alpha": v}] for v in (NAN, -1, 1.5, True, 10**10)),
            [{"norm": "", "layer": "b", "alpha": 1}],
        ],
    ),
    ("int8", "encoder.default.overrides", [1, [1], [{}], [[]]]),
    ("fp16", "keep", [1, {}, [1], [{}], [[]]]),
    ("parity", "images", [[], {}, [1], [{}], [{"file": "a", "prompts": []}]]),
    (
        "parity",
        "images",
        [
            [{"file": "a.jpg", "prompts": prompts}]
            for prompts in (
                *([1], [{}], [{"name": "a"}], [{"name": "", "box": [1, 2, 3, 4]}]),
                *([{"name": "../../x", "box": [1, 2, 3, 4]}], [{"name": "a", "points": []}]),
                *([{"name": "a", "box": [0, 0, v, 1]}] for v in (NAN, math.inf, True, 1e300)),
                *([{"name": "a", "points": [[v, 0, 1]]}] for v in (NAN, math.inf, 1e300, -1e9)),
                [{"name": "a", "points": [[1, 1, 1]] * 1001}],
            )
        ],
    ),
    ("build", "models", [[], [1], [""], "x"]),
    ("build", "targets", [[], [1], [""], "x"]),
    ("build", "precisions", [[], [1], [""], "x"]),
    ("build", "leave_out", [1, {}, [1], [{}], [{"model": 1}], [{"model": []}]]),
    ("build", "options", [1, [], {"openvino": 1}, {"x": {}}]),
    ("build", "options.openvino.device", [1, True, [], {}, "a\0", NAN]),
    ("build", "output", ["", "a\0", 1, []]),
    ("build", "parity", ["", "a\0", 1, []]),
    ("build", "calibration", ["", "a\0", 1, []]),
    ("build", "requires", [1, {"onnx": 1}, {"onnx": ""}, {"x": "y"}]),
    ("build", "checkpoints", [1, {"mobile-sam": 1}, {"mobile-sam": "a" * 300}]),
]
OUT_OF_RANGE = [(kind, key, value) for kind, key, wrong in WRONG for value in wrong]


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    OUT_OF_RANGE,
    ids=[f"{n}-{kind}-{key}" for n, (kind, key, _) in enumerate(OUT_OF_RANGE)],
)
def test_a_wrong_value_is_refused_and_named(
    tmp_path: Path, kind: str, key: str, value: object
) -> None:
    table = parse(FILES[kind])
    *parents, last = key.split(".")
    node = table
    for parent in parents:
        node = node[parent]
    node[last] = value
    path = tmp_path / "mine.toml"
    path.write_text(tomli_w.dumps(table), "utf-8")
    with pytest.raises(UsageError) as caught:
        READERS[kind](path)
    assert " `mine.toml`: " in caught.value.message
    # "option" of "options", "image" of "images"
    assert any(part.removesuffix("s") in caught.value.message for part in key.split("."))


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_ships_is_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbf" + FILES[kind].replace("\n", "\r\n").encode())
    assert READERS[kind](path)


@pytest.mark.parametrize("kind", FILES)
def test_paths_that_are_no_files(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.toml").mkdir()
    os.mkfifo(tmp_path / "fifo.toml")
    for name in ("n" * 300 + ".toml", "file/x.toml", "a\0.toml", "\ud800.toml", "fifo.toml"):
        with pytest.raises(UsageError):
            READERS[kind](tmp_path / name)
    if kind != "calibration":  # takes folders too
        with pytest.raises(UsageError, match="is a directory"):
            READERS[kind](tmp_path / "folder.toml")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"#" * (MAX_BYTES + 1), "has over 1 MB"),
        (b"a" + b".a" * 100 + b" = 1", "has a key of over 64 parts"),
        (b"a = " + b"[" * 5000 + b"]" * 5000, "it nests too deeply"),
        (b"a = " + b"1" * 5000, "a number with thousands of digits"),
        (b"a = 1\na = 2", "Cannot overwrite a value"),
        (b"a = '\xff'", "can't decode byte 0xff"),
    ],
)
def test_what_is_no_toml(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=reason):
        read_toml(path)


def test_dots_in_texts_and_comments_are_no_keys(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    dots = ".x" * 100
    path.write_text(f"# {dots}\na = \"{dots}\"\nb = '{dots}'\n", "utf-8")
    assert read_toml(path) == {"a": dots, "b": dots}


def test_the_number_of_problems_in_a_message_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "effsam.toml"
    names = ", ".join(f'"model-{i}"' for i in range(500))
    options = "".join(f"x{i} = 1\n" for i in range(500))
    for text in (
        f'models = [{names}]\ntargets = ["onnx"]',
        f'models = ["mobile-sam"]\ntargets = ["onnx"]\n[options.onnx]\n{options}',
    ):
        path.write_text(text, "utf-8")
        with pytest.raises(UsageError, match="and 480 more problems"):
            build_file.load(path)
