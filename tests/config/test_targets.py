"""The shipped targets and evaluation images, and all faults of a user's file in one error."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from effsam_export import backends
from effsam_export.config import targets as profiles
from effsam_export.config.parity import load_parity_images
from effsam_export.config.toml import data_dir
from effsam_export.errors import UnknownNameError, UsageError
from effsam_export.imaging.decode import load_image
from effsam_export.imaging.images import check_prompt
from effsam_export.spec.prompts import Point, Prompt, PromptSupport
from effsam_export.spec.targets import Gates
from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """
description = "a target of one's own"
backend = "openvino"
precisions = ["fp16", "fp32"]
opset = 18
simplify = false

[options]
device = "CPU"

[gates]
fp32 = { mask_iou = 0.999, score_error = 0.001, cosine = 0.99999 }
fp16 = { mask_iou = 0.99, score_error = 0, cosine = 0.999 }
"""
SHIPPED = [
    (name, precision)
    for name in profiles.target_names()
    for precision in profiles.load_target(name).precisions
]


def write(path: Path, text: str) -> str:
    path.write_text(text, "utf-8")
    return str(path)


def changed(**changes: str) -> str:
    """A good target file in which lines are replaced, by the key they begin with; or left out."""
    lines = []
    for line in GOOD.splitlines():
        key = line.partition(" ")[0]
        lines.append(changes.get(key, line))
    return "\n".join(lines)


# ------------------------------------------------------------------ targets that ship


def test_names_of_the_targets() -> None:
    files = (REPOSITORY / "targets").glob("*.toml")
    assert profiles.target_names() == tuple(sorted(f.stem for f in files))
    assert {"onnx", "openvino", "intel-cpu"} <= set(profiles.target_names())


@pytest.mark.parametrize(("name", "precision"), SHIPPED)
def test_shipped_target(name: str, precision: str) -> None:
    target = profiles.load_target(name, precision)
    assert (target.name, target.precision) == (name, precision)
    assert target.description
    file = REPOSITORY / "targets" / f"{name}.toml"
    assert target.source == file.read_bytes()


@pytest.mark.parametrize(("name", "precision"), SHIPPED)
def test_gates_of_the_shipped_targets(name: str, precision: str) -> None:
    promised = {
        "fp32": Gates(mask_iou=0.999, score_error=1e-3, cosine=0.99999),
        "fp16": Gates(mask_iou=0.99, score_error=1e-2, cosine=0.999),
        "bf16": Gates(mask_iou=0.98, score_error=3e-2, cosine=0.995, mean_iou=0.995),
        "int8": Gates(mask_iou=0.9, score_error=5e-2, cosine=0.98, mean_iou=0.95),
    }
    assert profiles.load_target(name, precision).gates == promised[precision]


@pytest.mark.parametrize("name", profiles.target_names())
def test_default_precision_is_the_first(name: str) -> None:
    target = profiles.load_target(name)
    assert target.precision == target.precisions[0]


def test_unknown_target_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        profiles.load_target("openvin")
    assert caught.value.message == "unknown target `openvin`"
    assert caught.value.hint == "did you mean `openvino` or `onnx`?"


def test_unknown_precision() -> None:
    with pytest.raises(UnknownNameError) as caught:
        profiles.load_target("onnx", "fp8")
    assert caught.value.message == "unknown precision `fp8`"


def test_precision_that_the_target_lacks() -> None:
    with pytest.raises(UsageError) as caught:
        profiles.load_target("android-gpu", "int8")
    assert caught.value.message == "target `android-gpu` does not support precision `int8`"
    assert caught.value.hint == "it supports `fp16`"


def test_an_option_overrides_the_target_file() -> None:
    target = profiles.load_target("openvino", "fp32", {"device": "GPU"})
    assert target.options == {"device": "GPU", "inference_precision": "f32"}


def test_bf16_sets_the_option_of_openvino() -> None:
    target = profiles.load_target("openvino", "bf16", {"device": "CPU"})
    assert target.options == {"device": "CPU", "inference_precision": "bf16"}
    given = {"inference_precision": "bf16"}
    assert profiles.load_target("intel-cpu", "bf16", given).options["device"] == "CPU"
    with pytest.raises(UsageError) as caught:
        profiles.load_target("openvino", "bf16", {"inference_precision": "f32"})
    assert caught.value.message == (
        "option `inference_precision` is `f32`, but precision `bf16` needs `bf16`"
    )


def test_options_have_the_types_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = backends.BACKENDS["onnx"]
    kinds = {**entry.options, "slots": int, "wide": bool, "share": float}
    monkeypatch.setitem(backends.BACKENDS, "onnx", replace(entry, options=kinds))
    given = {"slots": "8", "wide": "True", "share": "0.5"}
    target = profiles.load_target("onnx", None, given)
    assert target.options == {
        "provider": "CPUExecutionProvider",
        "slots": 8,
        "wide": True,
        "share": 0.5,
    }


def test_one_error_lists_all_wrong_options(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = backends.BACKENDS["onnx"]
    kinds = {**entry.options, "slots": int, "wide": bool}
    monkeypatch.setitem(backends.BACKENDS, "onnx", replace(entry, options=kinds))
    with pytest.raises(UsageError) as caught:
        profiles.load_target("onnx", None, {"slot": "8", "slots": "many", "wide": "yes"})
    assert caught.value.message == (
        "unknown option of backend `onnx` `slot` (did you mean `slots`?); "
        "option `slots` is `many`, but has to be of type int; "
        "option `wide` is `yes`, but has to be true or false"
    )


# ------------------------------------------------------------------ a user's own target


def test_own_file(tmp_path: Path) -> None:
    target = profiles.load_target(write(tmp_path / "mine.toml", GOOD), "fp16")
    assert (target.name, target.backend, target.opset) == ("mine", "openvino", 18)
    assert target.options == {"device": "CPU"}
    assert target.gates == Gates(mask_iou=0.99, score_error=0.0, cosine=0.999)


def test_own_file_that_does_not_exist(tmp_path: Path) -> None:
    path = str(tmp_path / "mine.toml")
    with pytest.raises(UsageError) as caught:
        profiles.load_target(path)
    assert caught.value.message == f"target file `{path}` does not exist"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"x = = 3", "Invalid value"), (b"x = '\xff'", "codec can't decode")],
    ids=["grammar", "encoding"],
)
def test_no_toml(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        profiles.load_target(str(path))
    assert caught.value.message.startswith(f"`{path}` is not valid TOML: ")
    assert reason in caught.value.message


MANY = {
    "opset": "opsett = 18",
    "device": 'devise = "CPU"',
    "fp32": 'fp32 = { mask_iou = "high", score_error = 0.001, cosine = 2.0 }',
}
FAULTS = {
    "unknown key": (
        {"simplify": "simplify = false\nsimplyfy = true"},
        "unknown key `simplyfy` (did you mean `simplify`?)",
    ),
    "missing key": ({"opset": ""}, "`opset` is missing"),
    "old opset": ({"opset": "opset = 17"}, "`opset` is not from 18 to 23"),
    "opset to come": ({"opset": "opset = 99"}, "`opset` is not from 18 to 23"),
    "wrong type": ({"opset": 'opset = "18"'}, "`opset` is not of type int"),
    "truth for a number": ({"opset": "opset = true"}, "`opset` is not of type int"),
    "backend": (
        {"backend": 'backend = "openvin"'},
        "unknown backend `openvin` (did you mean `openvino` or `onnx`?)",
    ),
    "option": (
        {"device": 'devise = "CPU"'},
        "unknown option of backend `openvino` `devise` (did you mean `device`?)",
    ),
    "type of an option": ({"device": "device = 3"}, "`options.device` is not of type str"),
    "no precision": ({"precisions": "precisions = []"}, "`precisions` is empty"),
    "precision": (
        {"precisions": 'precisions = ["fp23", "fp16"]'},
        "unknown precision `fp23` (did you mean `fp32` or `fp16`?)",
    ),
    "no word for a precision": (
        {"precisions": "precisions = [16]"},
        "unknown precision `16` (did you mean `fp16` or `bf16`?)",
    ),
    "no gates for a precision": ({"fp16": ""}, "`gates.fp16` is missing"),
    "gates for no precision": (
        {"fp16": "fp16 = { mask_iou = 0.9, score_error = 0.1, cosine = 0.9 }\nfp61 = {}"},
        "unknown key `gates.fp61` (did you mean `fp16` or `fp32`?)",
    ),
    "gates that are no table": ({"fp16": "fp16 = 0.99"}, "`gates.fp16` is not a table"),
    "missing gate": (
        {"fp16": "fp16 = { mask_iou = 0.9, cosine = 0.9 }"},
        "`gates.fp16.score_error` is missing",
    ),
    "unknown gate": (
        {"fp16": "fp16 = { mask_iou = 0.9, score_error = 0.1, cosine = 0.9, iou = 0.9 }"},
        "unknown key `gates.fp16.iou` (did you mean `mask_iou`?)",
    ),
    "type of a gate": (
        {"fp16": 'fp16 = { mask_iou = "high", score_error = 0.1, cosine = 0.9 }'},
        "`gates.fp16.mask_iou` is not of type float",
    ),
    "gate out of range": (
        {"fp16": "fp16 = { mask_iou = 99, score_error = 0.1, cosine = 0.9 }"},
        "`gates.fp16.mask_iou` is not between 0 and 1",
    ),
    "gate that nothing fails": (
        {"fp16": "fp16 = { mask_iou = nan, score_error = 0.1, cosine = 0.9 }"},
        "`gates.fp16.mask_iou` is not between 0 and 1",
    ),
    "all at once": (
        MANY,
        "`opset` is missing; "
        "unknown key `opsett` (did you mean `opset`?); "
        "unknown option of backend `openvino` `devise` (did you mean `device`?); "
        "`gates.fp32.mask_iou` is not of type float; "
        "`gates.fp32.cosine` is not between 0 and 1",
    ),
}


@pytest.mark.parametrize(("changes", "message"), FAULTS.values(), ids=FAULTS)
def test_faults_of_a_target_file(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    path = write(tmp_path / "mine.toml", changed(**changes))
    with pytest.raises(UsageError) as caught:
        profiles.load_target(path)
    assert caught.value.message == f"target file `mine.toml`: {message}"


# ------------------------------------------------------------------ images and prompts


def test_shipped_images_are_listed_with_their_licence() -> None:
    sources = (REPOSITORY / "calibration" / "images" / "SOURCES.md").read_text("utf-8")
    listed = re.findall(r"^\| `(\S+)`", sources, flags=re.MULTILINE)
    files = [i.path.name for i in load_parity_images()]
    assert sorted(files) == sorted(set(files))
    assert set(files) <= set(listed)
    assert sorted(listed) == sorted(p.name for p in data_dir("calibration").rglob("*.jpg"))


def test_shipped_prompts_lie_in_their_images() -> None:
    for image in load_parity_images():
        h, w = load_image(image.path).shape[:2]
        for case in image.cases:
            check_prompt(case.prompt, (h, w), PromptSupport())


def test_shipped_prompts_are_of_every_kind() -> None:
    cases = [c for image in load_parity_images() for c in image.cases]
    assert {(bool(c.prompt.points), c.prompt.box is not None) for c in cases} == {
        (True, False),
        (False, True),
        (True, True),
    }
    assert {p.label for c in cases for p in c.prompt.points} == {0, 1}
    assert any(c.mask_from for c in cases)


def test_own_evaluation_images(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    write(
        path,
        '[[images]]\nfile = "a.jpg"\nprompts = [\n'
        '{ name = "one", points = [[1, 2.5, 1]] },\n'
        '{ name = "two", box = [1, 2, 3, 4], mask_from = "one" } ]',
    )
    (image,) = load_parity_images(path)
    assert image.path == tmp_path / "a.jpg"
    assert [(c.name, c.prompt, c.mask_from) for c in image.cases] == [
        ("one", Prompt(points=(Point(x=1, y=2.5),)), None),
        ("two", Prompt(box=(1, 2, 3, 4)), "one"),
    ]


def test_a_precision_that_the_backend_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entry = replace(backends.BACKENDS["onnx"], precisions=("fp32", "fp16"))
    monkeypatch.setitem(backends.BACKENDS, "onnx", entry)
    path = tmp_path / "mine.toml"
    shipped = data_dir("targets") / "onnx.toml"
    path.write_text(shipped.read_text("utf-8"), "utf-8")
    with pytest.raises(UsageError) as caught:
        profiles.load_target(str(path))
    assert (
        "backend `onnx` does not support precision `int8` (only fp32, fp16)" in caught.value.message
    )
