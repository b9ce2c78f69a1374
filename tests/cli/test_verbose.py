"""`--verbose` shows what the library logs; without it nothing of that is printed."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from effsam_export import cli
from effsam_export.cli.console import Console
from effsam_export.errors import UsageError
from effsam_export.integrate.fingerprint import fingerprint
from effsam_export.pipeline import isolate
from tests.bundle import fake

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from effsam_export.spec.stages import Checkpoint

LIBRARY = logging.getLogger("effsam_export.some.module")
SLOW = "import time; print('one', flush=True); time.sleep(0.5); print('two'); print('end', end='')"


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Leave no handler behind."""
    yield
    Console()


def test_lines_are_shown_only_if_asked(capsys: pytest.CaptureFixture[str]) -> None:
    Console(verbose=True)
    LIBRARY.debug("%s", "one\ntwo\x1b")
    assert capsys.readouterr() == ("", "  | one\n  | two\\x1b\n")
    # The next command of the same process starts without.
    Console()
    LIBRARY.debug("three")
    assert capsys.readouterr() == ("", "")
    assert logging.getLogger("effsam_export").handlers == []


def test_each_line_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    Console(verbose=True)
    Console(verbose=True)
    LIBRARY.debug("one")
    assert capsys.readouterr().err == "  | one\n"


@pytest.mark.parametrize("command", ["export", "lint", "bisect"])
def test_quiet_and_verbose_contradict(command: str) -> None:
    asked = [command, "mobile-sam", "-t", "onnx", "-q", "-v"]
    error = CliRunner().invoke(cli.app, asked).exception
    assert isinstance(error, UsageError)
    assert error.message == "--quiet and --verbose contradict each other"
    assert error.hint == "leave one out"


@pytest.mark.parametrize(
    "arguments",
    [
        "build --plan",
        "worker --scheduler tcp://127.0.0.1:1",
        "run bundle image.png --everything",
        "code bundle --language cpp",
    ],
)
def test_quiet_and_verbose_contradict_before_anything_is_read(arguments: str) -> None:
    error = CliRunner().invoke(cli.app, [*arguments.split(), "-q", "-v"]).exception
    assert isinstance(error, UsageError)
    assert error.message == "--quiet and --verbose contradict each other"


@pytest.mark.parametrize("verbose", [True, False])
def test_the_output_of_a_converter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verbose: bool
) -> None:
    Console(verbose=verbose)
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", SLOW], stdout=file)
        assert isolate.followed(process, log) == 0
    assert capsys.readouterr().err == ("  | one\n  | two\n  | end\n" if verbose else "")


def details_of(stderr: str) -> list[str]:
    """The lines of `--verbose`, without their mark."""
    return [x.removeprefix("  | ") for x in stderr.splitlines() if x.startswith("  | ")]


def test_a_plan_shows_what_the_bundles_depend_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EFFSAM_CACHE_DIR", str(tmp_path / "cache"))
    file = tmp_path / "effsam.toml"
    file.write_text('models = ["mobile-sam"]\ntargets = ["onnx"]\nprecisions = ["fp32"]\n', "utf-8")
    done = CliRunner().invoke(cli.app, ["build", str(file), "--plan", "-v"])
    assert done.exit_code == 0, done.stderr
    lines = details_of(done.stderr)
    assert all(line.startswith("mobile-sam-onnx-fp32: ") for line in lines)
    for word in ("cache key", "weights", "target.options", "tool.onnxruntime"):
        assert any(line.startswith(f"mobile-sam-onnx-fp32: {word} ") for line in lines), word
    assert details_of(CliRunner().invoke(cli.app, ["build", str(file), "--plan"]).stderr) == []


def test_code_shows_the_contract(tmp_path: Path, tiny: None) -> None:
    bundle = fake.write(tmp_path / "bundle")
    asked = ["code", str(bundle), "-l", "cpp", "-o", str(tmp_path / "code")]
    done = CliRunner().invoke(cli.app, [*asked, "-v"])
    assert done.exit_code == 0, done.stderr
    lines = details_of(done.stderr)
    digest = fingerprint(fake.manifest_of(bundle))
    assert f"contract: sha256 {digest}, backend onnx" in lines
    size = (tmp_path / "code" / "example.cpp").stat().st_size
    assert f"example.cpp: {size} bytes" in lines
    assert details_of(CliRunner().invoke(cli.app, [*asked, "--force"]).stderr) == []


@pytest.mark.backend
def test_an_export_shows_its_details(
    tiny: None,
    shared_stages: None,
    tiny_checkpoint: Checkpoint,
    parity_file: Path,
    tmp_path: Path,
) -> None:
    given = ["--checkpoint", str(tiny_checkpoint.path), "--parity", str(parity_file)]
    asked = ["export", "tiny-sam", "-t", "onnx", "-c", "encoder", "-o", str(tmp_path / "b"), *given]
    done = CliRunner().invoke(cli.app, [*asked, "-v"])
    assert done.exit_code == 0, done.stderr
    lines = details_of(done.stderr)
    for start in ("target onnx: ", "target options: provider ", "weights: ", "tools: Python "):
        assert any(x.startswith(start) for x in lines), (start, lines)
    assert any(x.startswith("constants: ") and "float32" in x for x in lines)
    assert any(x.startswith("operators: ") and "Conv" in x for x in lines)
    done = CliRunner().invoke(cli.app, [*asked, "--force"])
    assert done.exit_code == 0
    assert "  | " not in done.stderr
