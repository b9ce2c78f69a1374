"""Successful commands: data on stdout, messages on stderr, exit code 0."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from PIL import Image

from effsam_export import cli, models
from effsam_export.cli.options import chosen_precision
from effsam_export.cli.run_prompts import to_prompts
from effsam_export.config import targets as profiles
from effsam_export.errors import UsageError
from effsam_export.spec.prompts import Point, Prompt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from effsam_export.spec.stages import Checkpoint


class Shown(NamedTuple):
    """What a command printed."""

    out: str
    err: str


@pytest.fixture
def effsam(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Shown]:
    """Run a command that succeeds, in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Shown:
        monkeypatch.setattr(sys, "argv", ["effsam", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        assert not ended.value.code, shown.err
        return Shown(shown.out, shown.err)

    return run


def test_list_has_every_model_with_its_state(effsam: Callable[..., Shown]) -> None:
    lines = effsam("list").out.splitlines()
    assert [line.split()[0] for line in lines] == ["model", *models.names()]
    assert "verified" in lines[1]


def test_list_as_json_is_a_ci_matrix(effsam: Callable[..., Shown]) -> None:
    document = json.loads(effsam("list", "--json").out)
    assert document["schema_version"] == 2
    (mobile,) = [m for m in document["models"] if m["name"] == "mobile-sam"]
    assert mobile["components"] == ["encoder", "decoder"]
    assert mobile["checkpoint"]["sha256"].startswith("6dbb90523a35")


def test_targets_has_every_profile(effsam: Callable[..., Shown]) -> None:
    lines = effsam("targets").out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(profiles.target_names())
    document = json.loads(effsam("targets", "--json").out)
    assert {t["name"]: t["default_precision"] for t in document["targets"]} == {
        n: profiles.load_target(n).precision for n in profiles.target_names()
    }


def test_doctor_prints_packages_and_targets(effsam: Callable[..., Shown]) -> None:
    text = effsam("doctor").out
    assert text.startswith("effsam-export 0")
    for name in ("torch", "openvino", *profiles.target_names()):
        assert name in text
    document = json.loads(effsam("doctor", "--json", "--cache-dir", "elsewhere").out)
    assert document["cores"] >= 1
    assert document["cache_dir"] == "elsewhere"


H100 = "NVIDIA H100 80GB HBM3, 9.0, 580.159.04"
ORIN = "Orin (nvgpu), 8.7, 540.4.0"


@pytest.mark.parametrize(
    ("script", "found"),
    [
        (f"echo '{H100}'", ["NVIDIA H100 80GB HBM3, compute capability 9.0, driver 580.159.04"]),
        (
            f"echo '{H100}'; echo '{ORIN}'",
            [
                "NVIDIA H100 80GB HBM3, compute capability 9.0, driver 580.159.04",
                "Orin (nvgpu), compute capability 8.7, driver 540.4.0",
            ],
        ),
        ("echo 'No devices were found'", []),
        ("echo 'NVIDIA-SMI has failed'; exit 9", []),
    ],
    ids=["one", "two", "no GPU", "no driver"],
)
def test_doctor_names_gpus(
    effsam: Callable[..., Shown],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    found: list[str],
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert json.loads(effsam("doctor", "--json").out)["gpus"] == found
    line = next(s for s in effsam("doctor").out.splitlines() if s.startswith("GPU "))
    assert line == f"GPU {'; '.join(found) or 'none found by `nvidia-smi`'}"


def test_doctor_without_nvidia_smi(
    effsam: Callable[..., Shown], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert json.loads(effsam("doctor", "--json").out)["gpus"] == []


def test_help_states_the_exit_codes(effsam: Callable[..., Shown]) -> None:
    text = " ".join(effsam("--help").out.split())
    assert (
        "Exit codes: 0 success; 1 a check failed; 2 wrong usage, input or configuration; "
        "3 a required package is missing."
    ) in text


@pytest.mark.backend
def test_export_then_run(
    effsam: Callable[..., Shown],
    tiny: None,
    shared_stages: None,
    tiny_checkpoint: Checkpoint,
    parity_file: Path,
    photo: Path,
    tmp_path: Path,
) -> None:
    given = ["--checkpoint", tiny_checkpoint.path, "--parity", parity_file]
    shown = effsam("export", "tiny-sam", "--target", "onnx", *given)
    assert shown.out == "tiny-sam-onnx-fp32\n"
    lines = shown.err.splitlines()
    assert [line.split("  ")[0] for line in lines if line.startswith("✓")] == [
        f"✓ {s}"
        for s in (
            "load",
            "trace encoder",
            "lower encoder",
            "trace decoder",
            "lower decoder",
            "parity",
            "bundle",
        )
    ]
    assert "note: `tiny.pt` is not known to be the official checkpoint of tiny-sam" in lines
    assert any(line.startswith("photo/point") for line in lines)
    assert lines[-2].startswith("PASSED  tiny-sam onnx fp32")
    assert lines[-1].startswith("next: effsam run tiny-sam-onnx-fp32 IMAGE")
    assert [p.name for p in tmp_path.iterdir()] == ["tiny-sam-onnx-fp32"]

    box = ["--box", "10,10,90,60", "--point", "60,40,0"]
    files = ["--output", "overlay.png", "--masks", "masks.npz"]
    shown = effsam("run", "tiny-sam-onnx-fp32", photo, *box, *files)
    assert shown.out.splitlines()[0].split() == ["mask", "score", "box", "pixels"]
    times, *written = shown.err.splitlines()
    assert re.fullmatch(r"encode \d+ ms, decode \d+ ms", times)
    assert written == ["wrote overlay.png", "wrote masks.npz"]
    with Image.open("overlay.png") as overlay:
        assert overlay.size == (120, 80)


@pytest.mark.backend
def test_quiet_export_prints_only_the_bundle(
    effsam: Callable[..., Shown],
    tiny: None,
    tiny_checkpoint: Checkpoint,
    parity_file: Path,
) -> None:
    given = ["--checkpoint", tiny_checkpoint.path, "--parity", parity_file, "-c", "encoder"]
    shown = effsam("export", "tiny-sam", "-t", "onnx", "-o", "here/bundle", "--quiet", *given)
    assert shown == ("here/bundle\n", "")


@pytest.mark.backend
def test_masks_file(effsam: Callable[..., Shown], bundle: Path, photo: Path) -> None:
    effsam("run", bundle, photo, "--point", "60,40", "--masks", "m.npz", "-q")
    with np.load("m.npz") as content:
        assert sorted(content.files) == ["low_res_masks", "masks", "scores"]
        assert content["masks"].shape == (3, 80, 120)
        assert content["masks"].dtype == bool
        assert content["low_res_masks"].shape == (3, 256, 256)
        assert content["low_res_masks"].dtype == np.float32
        assert list(content["scores"]) == sorted(content["scores"], reverse=True)


@pytest.mark.backend
def test_single_mask(effsam: Callable[..., Shown], bundle: Path, photo: Path) -> None:
    shown = effsam("run", bundle, photo, "--point", "60,40", "--single-mask", "--json")
    document = json.loads(shown.out)
    assert [m["index"] for m in document["masks"]] == [0]
    assert document["image"] == {"width": 120, "height": 80, "range": [0, 255], "notes": []}


@pytest.mark.backend
@pytest.mark.parametrize("mode", [("--point", "60,40"), ("--everything", "--grid", "2")])
def test_the_range_of_a_deep_image(
    effsam: Callable[..., Shown], bundle: Path, photo: Path, tmp_path: Path, mode: tuple[str, ...]
) -> None:
    """An image of 12 bits has the masks of the same one of 8 bits; a note says how it was read."""
    with Image.open(photo) as image:
        grey = np.asarray(image.convert("L"))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 16).save(tmp_path / "deep.png")
    plain = json.loads(effsam("run", bundle, "grey.png", *mode, "--json").out)
    shown = effsam("run", bundle, "deep.png", *mode, "--json")
    found = json.loads(shown.out)
    least, greatest = 16 * int(grey.min()), 16 * int(grey.max())
    note = f"has 16-bit values from {least} to {greatest}, read as 0 to 4095 (12 bits)"
    note += " by the range `auto`"
    assert f"note: image `deep.png` {note}" in shown.err.splitlines()
    assert found["image"] == {**plain["image"], "range": [0, 4095], "notes": [note]}
    assert found["masks"] == plain["masks"]
    dark = json.loads(effsam("run", bundle, "deep.png", *mode, "--range", "full", "--json").out)
    assert dark["image"]["range"] == [0, 65535]
    # The tiny model finds no mask by itself.
    assert dark["masks"] != plain["masks"] or mode[0] == "--everything"
    assert effsam("run", bundle, "deep.png", *mode, "--range", "0,4095", "-q").err == ""


@pytest.mark.backend
def test_several_boxes_keep_their_order(
    effsam: Callable[..., Shown], bundle: Path, photo: Path
) -> None:
    boxes = ["10,10,40,40", "50,20,100,70"]
    together = json.loads(
        effsam("run", bundle, photo, "--box", boxes[0], "--box", boxes[1], "--json").out
    )
    alone = [
        json.loads(effsam("run", bundle, photo, "--box", b, "--json").out)["masks"][0]
        for b in boxes
    ]
    assert together["masks"] == [{**mask, "prompt": n} for n, mask in enumerate(alone, start=1)]


@pytest.mark.backend
def test_mask_input_changes_the_masks(
    effsam: Callable[..., Shown], bundle: Path, photo: Path
) -> None:
    effsam("run", bundle, photo, "--point", "60,40", "--masks", "m.npz")
    first = effsam("run", bundle, photo, "--point", "30,30", "--json").out
    second = effsam("run", bundle, photo, "--point", "30,30", "--mask-input", "m.npz", "--json").out
    assert json.loads(first)["masks"] != json.loads(second)["masks"]


@pytest.mark.backend
def test_inspect_shows_the_contract(effsam: Callable[..., Shown], bundle: Path) -> None:
    text = effsam("inspect", bundle).out
    assert text.startswith("tiny-sam for onnx, fp32, verified\n")
    for name in ("image_embeddings", "point_coords", "low_res_masks", "iou_predictions"):
        assert name in text
    document = json.loads(effsam("inspect", bundle, "--json").out)
    assert document["manifest"]["manifest_version"] == 4


def test_points_and_one_box_are_one_prompt() -> None:
    (prompt,) = to_prompts(["1,2", "3,4.5,0"], ["0,0,9,9"])
    assert prompt == Prompt(
        points=(Point(x=1, y=2, label=1), Point(x=3, y=4.5, label=0)), box=(0, 0, 9, 9)
    )


def test_two_boxes_are_two_prompts() -> None:
    assert [p.box for p in to_prompts([], ["0,0,9,9", "1,1,2,2"])] == [
        (0, 0, 9, 9),
        (1, 1, 2, 2),
    ]


def test_short_options_of_precision() -> None:
    assert chosen_precision(None, fp16=False, int8=False) is None
    assert chosen_precision(None, fp16=True, int8=False) == "fp16"
    assert chosen_precision("fp16", fp16=True, int8=False) == "fp16"
    assert chosen_precision(None, fp32=True) == "fp32"
    assert chosen_precision(None, bf16=True) == "bf16"
    with pytest.raises(UsageError, match="fp32 and int8 at once"):
        chosen_precision("fp32", fp16=False, int8=True)
    with pytest.raises(UsageError, match="fp16 and fp32 and int8 at once"):
        chosen_precision(None, fp32=True, fp16=True, int8=True)
