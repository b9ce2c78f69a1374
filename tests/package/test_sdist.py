"""The source distribution holds the whole repository, and its tests pass in it."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.package.source_files import source_files
from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

LIGHT = ("config", "imaging", "package", "spec", "util", "weights")
"""Folders of tests that need neither a model nor a backend."""
ONLY_LIGHT = "not slow and not weights and not backend and not network"


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unpacked source distribution of this repository."""
    out = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run([*command, str(REPOSITORY)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (packed,) = out.glob("*.tar.gz")
    with tarfile.open(packed) as archive:
        archive.extractall(out, filter="data")
    (folder,) = (p for p in out.iterdir() if p.is_dir())
    return folder


def pytest_in(folder: Path, *arguments: str) -> list[str]:
    """Run pytest on another copy of the repository; its output in lines."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    return done.stdout.splitlines()


def test_every_file_is_in_it(sdist: Path) -> None:
    files = {p.relative_to(sdist).as_posix() for p in sdist.rglob("*") if p.is_file()}
    assert files == source_files() | {"PKG-INFO"}


@pytest.mark.slow
def test_every_test_is_collected_in_it(sdist: Path) -> None:
    collected = [line for line in pytest_in(sdist, "--collect-only") if "::" in line]
    here = [line for line in pytest_in(REPOSITORY, "--collect-only") if "::" in line]
    assert len(here) > 1000
    assert collected == here


@pytest.mark.slow
def test_light_tests_pass_in_it(sdist: Path) -> None:
    folders = [f"tests/{name}" for name in LIGHT if (sdist / "tests" / name).is_dir()]
    assert len(folders) >= 5
    summary = pytest_in(sdist, "-m", ONLY_LIGHT, *folders)[-1]
    assert int(summary.split(" passed")[0].split()[-1]) > 300
