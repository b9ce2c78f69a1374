"""Hostile command lines: success or one error, a documented exit code, and nothing written."""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING

import pytest

from effsam_export import cli
from effsam_export.cli.run_prompts import to_prompts
from effsam_export.errors import PromptError
from effsam_export.spec.stages import Checkpoint
from effsam_export.weights import fetch
from tests.cli import hostile_arguments
from tests.cli.hostile_arguments import KINDS, LONG, world

if TYPE_CHECKING:
    from pathlib import Path

SAMPLE = 25
"""Command lines of each kind in the quick tests."""
MAX_ERROR = 20_000
STARTS = ("  ", "hint: ", "Try ", "Error: ")
"""What the lines after the first one of an error begin with."""


def code_of(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    """Run a command line and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["effsam", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with the files that the command lines name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFSAM_CACHE_DIR", str(tmp_path.parent / "cache"))
    # A dry run would ask the web for weights that are not there.
    found = Checkpoint(path=tmp_path / "weights.pt", sha256="0" * 64, official=True)
    monkeypatch.setattr(fetch, "cached", lambda *_, **__: found)
    world(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_success_or_one_error(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    choice = random.Random(f"quick {kind}")
    before = sorted(place.rglob("*"))
    for _ in range(SAMPLE):
        arguments = KINDS[kind](choice)
        code = code_of(arguments, monkeypatch)
        shown = capsys.readouterr()
        short = [text[:80] for text in arguments[:20]]
        assert code in (0, 1, 2, 3), short
        errors = [x for x in shown.err.splitlines() if x.lower().startswith("error: ")]
        # `effsam` without a command shows its help.
        assert len(errors) == (code != 0) or shown.err.startswith("Usage: "), (short, shown.err)
        assert len(shown.err) < MAX_ERROR, short
        assert "\x1b" not in shown.err + shown.out, short
        assert sorted(place.rglob("*")) == before, short


def test_a_line_break_in_a_path_adds_no_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{word}\nerror: y\u2028z\r\x1b[2J\x85.toml" for word in ("file", "folder", "nothing")]
    (place / names[0]).write_text("x =")
    (place / names[1]).mkdir()
    monkeypatch.setattr(hostile_arguments, "PATHS", names)
    choice = random.Random("lines")
    for _ in range(60):
        arguments = hostile_arguments.path_arguments(choice)
        code = code_of(arguments, monkeypatch)
        *lines, last = capsys.readouterr().err.split("\n")
        assert last == "", arguments
        if code:
            first, *rest = lines
            assert first.lower().startswith(("error: ", "usage: ")), (arguments, lines)
            assert all(x.startswith(STARTS) or not x for x in rest), (arguments, lines)
            assert sum(x.lower().startswith("error: ") for x in lines) == 1, (arguments, lines)
        assert not set("".join(lines)) & set("\r\x1b\x85\u2028"), arguments


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["cache", "--cache-dir", "file"], "file` is not a directory"),
        (["cache", "--cache-dir", "file/x"], "not a directory"),
        (["cache", "--cache-dir", LONG], "file name too long"),
        (["pack", "loop"], "loop`: too many levels of symbolic links"),
        (["code", "loop/..", "-l", "python"], "too many levels of symbolic links"),
        (["export", "mobile-sam", "-t", "onnx", "--dry-run", "-o", LONG], "file name too long"),
        (["export", "mobile-sam", "-t", "onnx", "--dry-run", "-o", f"no/{LONG}"], "name too long"),
        # The staging directory has a longer name.
        (["export", "mobile-sam", "-t", "onnx", "--dry-run", "-o", "n" * 250], "name too long"),
        (["export", "mobile-sam", "-t", "onnx", "--dry-run", "-o", "file"], "not a directory"),
        (["export", "mobile-sam", "-t", "onnx", "--dry-run", "-o", ""], "the path is empty"),
        (["export", "mobile-sam", "-t", "onnx", "--dry-run", "-c", "encodr"], "no component"),
        (["export", "mobile-sam", "-t", "onnx", "--dry-run", "--parity", "no"], "does not exist"),
        (["export", "mobile-sam", "-t", "../calibration/default", "--dry-run"], "unknown target"),
        (
            [
                "export",
                "mobile-sam",
                "-t",
                "onnx",
                "--int8",
                "--calib",
                "int8/x",
                "--dry-run",
            ],
            "calibration `int8/x` does not exist",
        ),
        (
            [
                *("export", "mobile-sam", "-t", "onnx", "--dry-run"),
                *(f"--option=x{i}" for i in range(500)),
            ],
            "and 480 more problems",
        ),
        (["code", "folder", "-l", "../../x"], "unknown language `../../x`"),
        (["code", "folder", "-l", "/x"], "unknown language `/x`"),
        (["run", "folder", "a\0b", "--point", "1,1"], "it has a null character"),
        (["run", "folder", "\ud800", "--point", "1,1"], "U+D800"),
        (["build", "--plan", "fifo"], "is not a regular file"),
        (["build", "--plan", "folder.toml"], "is a directory"),
        (["build", "--plan", "binary.toml"], "is not valid TOML"),
        (["build", "--plan", "--jobs", "1_0"], "--jobs `1_0`: not a whole number"),
        (["build", "--plan", "--memory", "nan"], "--memory `nan`: not a decimal number"),
        (["run", "folder", "x.png", "--everything", "--grid", "٣٢"], "not a whole number"),
        (["cache", "--remove-unused", "1e400"], "--remove-unused `1e400`: not a decimal number"),
    ],
)
def test_what_the_error_says(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    reason: str,
) -> None:
    assert code_of(arguments, monkeypatch) == 2
    assert reason in capsys.readouterr().err


WRONG = (
    *("1_0,2", "\u0663,1", "\uff11,1", "1e400,2", "nan,1", "inf,1", "0x10,1", "1,", ",1", "1;2"),
    *("", ",", "1 0,2", "1" * 5000 + ",1", "1,2,3,4,5", "\0,1", "\ud800,1", "1j,1", "--1,1"),
)


@pytest.mark.parametrize("text", WRONG)
def test_one_rule_for_numbers_of_prompts(text: str) -> None:
    with pytest.raises(PromptError, match="is not X,Y"):
        to_prompts([text], [])
    with pytest.raises(PromptError, match="is not X0,Y0,X1,Y1"):
        to_prompts([], [f"{text},1,1"[: -4 if text.count(",") > 2 else None]])


def test_numbers_of_prompts_as_people_write_them() -> None:
    (prompt,) = to_prompts(["1, 2", "+1.5,.5,0", "1e2,-3"], ["0,0,1e1,2.50"])
    assert [(p.x, p.y, p.label) for p in prompt.points] == [(1, 2, 1), (1.5, 0.5, 0), (100, -3, 1)]
    assert prompt.box == (0, 0, 10, 2.5)


def test_the_number_of_prompts_is_bounded() -> None:
    with pytest.raises(PromptError, match="--point is given 1001 times"):
        to_prompts(["1,1"] * 1001, [])
    with pytest.raises(PromptError, match="--box is given 1001 times"):
        to_prompts([], ["1,1,2,2"] * 1001)


@pytest.mark.parametrize(
    ("failure", "code"),
    [(MemoryError(), 2), (OSError(28, "No space left on device", "x"), 2), (RecursionError(), 2)],
)
def test_failures_of_the_system_are_one_error(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failure: Exception,
    code: int,
) -> None:
    def fail() -> None:
        raise failure

    monkeypatch.setattr(cli, "app", fail)
    assert code_of([], monkeypatch) == code
    assert capsys.readouterr().err.startswith("error: ")
    monkeypatch.setenv(cli.TRACEBACK, "1")
    assert code_of([], monkeypatch) == code
    assert capsys.readouterr().err.startswith("Traceback ")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise KeyError("bug")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(KeyError):
        cli.main()
