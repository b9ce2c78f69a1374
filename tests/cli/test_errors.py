"""Wrong input: one error, the documented exit code, and no partial output."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from effsam_export import backends, cli
from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

COFFEE = REPOSITORY / "calibration" / "images" / "coffee.jpg"


class Failure:
    """What a failing command left: exit code, stdout and stderr."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err


Run = Callable[..., Failure]


@pytest.fixture
def effsam(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Run:
    """Run the command line in an empty directory, and return how it ended."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)

    def run(*arguments: object) -> Failure:
        monkeypatch.setattr(sys, "argv", ["effsam", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        assert list(place.iterdir()) == [], "something was left behind"
        code = ended.value.code
        assert isinstance(code, int)
        return Failure(code, shown.out, shown.err)

    return run


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        pytest.param(
            [
                *("export", "mobile-sam", "-t", "onnx", "--option", "provider"),
                *("--option", "a=1", "--option", "a=2"),
            ],
            "--option `provider` is not NAME=VALUE; --option `a` is given twice",
            "example: --option slots=4",
            id="malformed options",
        ),
        pytest.param(
            ["export", "mobil-sam", "-t", "onnx"],
            "unknown model `mobil-sam`",
            "did you mean `mobile-sam` or `repvit-sam`?",
            id="unknown model",
        ),
        pytest.param(
            ["export", "mobile-sam", "-t", "openvin"],
            "unknown target `openvin`",
            "did you mean `openvino` or `onnx`?",
            id="unknown target",
        ),
        pytest.param(
            ["export", "mobile-sam", "-t", "onnx", "-p", "fp61"],
            "unknown precision `fp61`",
            "did you mean `fp16` or `fp32`?",
            id="unknown precision",
        ),
        pytest.param(
            ["export", "mobile-sam", "-t", "android-gpu", "--int8"],
            "target `android-gpu` does not support precision `int8`",
            "it supports `fp16`",
            id="precision the target lacks",
        ),
        pytest.param(
            ["export", "mobile-sam", "-t", "onnx", "--int8", "--fp16"],
            "the options select fp16 and int8 at once",
            "give one precision",
            id="two precisions",
        ),
        pytest.param(
            ["export", "mobile-sam", "-t", "onnx", "-c", "encodr"],
            "model `mobile-sam` has no component `encodr`",
            "it has decoder, encoder",
            id="unknown component",
        ),
        pytest.param(
            ["export", "mobile-sam", "-t", "onnx", "--checkpoint", "nope.pt"],
            "there is no checkpoint at `nope.pt`",
            "check the path, or leave `--checkpoint` out to fetch the authors' file",
            id="missing checkpoint",
        ),
        pytest.param(
            ["export", "mobile-sam", "-t", "board.toml"],
            "target file `board.toml` does not exist",
            None,
            id="missing target file",
        ),
        pytest.param(
            ["run", "nothing", str(COFFEE), "--point", "1,1"],
            "bundle `nothing` does not exist",
            "`effsam export MODEL --target TARGET` writes one",
            id="missing bundle",
        ),
        pytest.param(
            ["run", str(REPOSITORY / "targets"), str(COFFEE), "--point", "1,1"],
            f"`{REPOSITORY / 'targets'}` is not a bundle: there is no `manifest.json`",
            "`effsam export MODEL --target TARGET` writes one",
            id="directory that is no bundle",
        ),
        pytest.param(
            ["verify", "nothing"],
            "bundle `nothing` does not exist",
            "`effsam export MODEL --target TARGET` writes one",
            id="verify of nothing",
        ),
        pytest.param(
            ["verify", "nothing", "--level", "some"],
            "unknown level `some`",
            "use `golden` or `full`",
            id="unknown level",
        ),
        pytest.param(
            ["fetch", "mobilesam"],
            "unknown model `mobilesam`",
            "did you mean `mobile-sam`?",
            id="fetch of an unknown model",
        ),
    ],
)
def test_one_error_with_a_hint_and_exit_code_2(
    effsam: Run, arguments: list[str], error: str, hint: str | None
) -> None:
    failure = effsam(*arguments)
    assert failure.code == 2
    assert failure.out == ""
    wanted = f"error: {error}\n" + (f"\nhint: {hint}\n" if hint else "")
    assert failure.err == wanted


@pytest.mark.backend
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        pytest.param(["--point", "120,5"], "point (120, 5) is outside the image", id="x too far"),
        pytest.param(["--point", "-1,5"], "point (-1, 5) is outside the image", id="negative"),
        pytest.param(["--point", "5,5", "--point", "5,80"], "point (5, 80)", id="second of two"),
        pytest.param(["--box", "200,10,300,20"], "is outside the image", id="box off the image"),
        pytest.param(["--box", "30,10,20,20"], "is empty: want x0 < x1", id="box turned round"),
        pytest.param(["--point", "1"], "--point `1` is not X,Y[,LABEL]", id="one number"),
        pytest.param(["--point", "a,b"], "--point `a,b` is not X,Y[,LABEL]", id="letters"),
        pytest.param(["--point", "nan,1"], "--point `nan,1` is not X,Y[,LABEL]", id="nan"),
        pytest.param(["--point", "1,1,2"], "--point `1,1,2` has label 2", id="label 2"),
        pytest.param(["--box", "1,2,3"], "--box `1,2,3` is not X0,Y0,X1,Y1", id="three numbers"),
        pytest.param([], "there is no prompt", id="no prompt"),
        pytest.param(
            ["--box", "1,1,9,9", "--box", "2,2,9,9", "--point", "1,1"],
            "--point can be combined with one --box, not with 2",
            id="points beside two boxes",
        ),
        pytest.param(
            ["--point", "1,1", "--mask-input", "no.npz"],
            "mask file `no.npz` does not exist",
            id="missing mask file",
        ),
        pytest.param(
            ["--point", "1,1", "-o", "overlay.gif"], "cannot write image `overlay.gif`", id="gif"
        ),
        pytest.param(
            ["--point", "1,1", "-o", "no/overlay.png"], "cannot write", id="no such directory"
        ),
        pytest.param(
            ["--point", "1,1", "--masks", "masks.zip"], "does not end in `.npz`", id="masks suffix"
        ),
    ],
)
def test_run_refuses_wrong_options(
    effsam: Run, bundle: Path, photo: Path, arguments: list[str], error: str
) -> None:
    failure = effsam("run", bundle, photo, *arguments)
    assert failure.code == 2
    assert failure.err.startswith("error: ")
    assert error in failure.err
    assert "\nhint: " in failure.err
    assert "Traceback" not in failure.err


@pytest.mark.backend
def test_run_names_all_points_that_are_outside(effsam: Run, bundle: Path, photo: Path) -> None:
    failure = effsam("run", bundle, photo, "--point", "500,1", "--point", "1,600")
    assert "(500, 1)" in failure.err
    assert "(1, 600)" in failure.err
    assert "hint: x runs from 0 to 119, y from 0 to 79" in failure.err


@pytest.mark.backend
@pytest.mark.parametrize(
    ("content", "error"),
    [
        pytest.param(None, "does not exist", id="missing"),
        pytest.param(b"", "cannot be read", id="empty"),
        pytest.param(b"no image", "cannot be read", id="text"),
        pytest.param(COFFEE.read_bytes()[:20_000], "cannot be read", id="truncated"),
    ],
)
def test_run_on_an_unreadable_image(
    effsam: Run, bundle: Path, tmp_path: Path, content: bytes | None, error: str
) -> None:
    image = tmp_path / "image.jpg"
    if content is not None:
        image.write_bytes(content)
    failure = effsam("run", bundle, image, "--point", "1,1", "-o", "overlay.png")
    assert failure.code == 2
    assert f"error: image `{image}` {error}" in failure.err


@pytest.mark.backend
def test_run_does_not_overwrite_the_input_image(
    effsam: Run, bundle: Path, photo: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "photo.png"
    copy.write_bytes(photo.read_bytes())
    failure = effsam("run", bundle, copy, "--point", "1,1", "-o", copy)
    assert f"error: `{copy}` is the input image" in failure.err
    assert copy.read_bytes() == photo.read_bytes()


@pytest.mark.backend
def test_a_checkpoint_of_another_model(effsam: Run, tmp_path: Path) -> None:
    import torch

    path = tmp_path / "edge_sam.pth"
    names = ("image_encoder.features.0.0.c.weight", "image_encoder.fuse_stage2.weight")
    torch.save({name: torch.zeros(24, 3, 3, 3) for name in names}, path)
    failure = effsam("export", "mobile-sam", "-t", "onnx", "--checkpoint", path, "-q")
    assert failure.code == 2
    assert "is an EdgeSAM checkpoint: not one of `mobile-sam`" in failure.err
    assert "hint: export it as `edge-sam` or `edge-sam-3x`" in failure.err


@pytest.mark.parametrize("kind", ["bundle", "directory", "file", "link"])
def test_an_output_that_exists(
    effsam: Run, tmp_path: Path, tiny: None, tiny_checkpoint: object, kind: str
) -> None:
    output = tmp_path / "taken"
    wanted = {
        "bundle": f"bundle `{output}` exists already",
        "directory": f"directory `{output}` exists and is not a bundle",
        "file": f"`{output}` exists and is not a directory",
        "link": f"`{output}` exists and is not a directory",
    }
    if kind == "file":
        output.write_text("mine")
    elif kind == "link":
        output.symlink_to(tmp_path / "nowhere")
    else:
        output.mkdir()
        name = "manifest.json" if kind == "bundle" else "notes.txt"
        (output / name).write_text('{"manifest_version": 4, "files": []}')
    before = sorted(tmp_path.rglob("*"))
    failure = effsam("export", "tiny-sam", "-t", "onnx", "-o", output)
    assert failure.code == 2
    assert failure.err.startswith(f"error: {wanted[kind]}\n")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_toolchain(effsam: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None if name == "openvino" else name)
    failure = effsam("export", "mobile-sam", "-t", "openvino")
    assert failure.code == 3
    assert failure.err == (
        "error: backend `openvino` needs a package that is not installed: `openvino`\n"
        '\nhint: pip install -e ".[openvino]" in the checkout of effsam-export\n'
    )


def test_missing_torch(effsam: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None if name == "torch" else name)
    failure = effsam("export", "mobile-sam", "-t", "onnx")
    assert failure.code == 3
    assert failure.err == (
        "error: tracing a model needs a package that is not installed: `torch`\n"
        '\nhint: pip install -e ".[torch]" in the checkout of effsam-export\n'
    )
