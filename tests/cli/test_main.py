"""The entry point: a signal ends the program with one line, also before the commands are there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import pytest

from effsam_export import __main__ as entry
from tests.paths import REPOSITORY

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import runpy, signal
# A shell starts jobs in the background with SIGINT ignored, and nohup starts them without SIGHUP.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
runpy.run_module("effsam_export", run_name="__main__")
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_while_modules_are_imported_is_one_line(tmp_path: Path, name: str) -> None:
    # In the place of the first module that the command line imports.
    (tmp_path / "typer.py").write_text(f"import signal\nsignal.raise_signal(signal.{name})\n")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    number = signal.Signals[name]
    assert (done.stderr, done.returncode) == (f"stopped by {name}\n", 128 + number)


def test_the_script_runs_the_entry_point() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))
    module, _, function = project["project"]["scripts"]["effsam"].partition(":")
    assert getattr(import_module(module), function) is entry.main
