"""README stays true: its console blocks run, its links resolve, its files exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from effsam_export import __version__
from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.stages import Checkpoint

README = (REPOSITORY / "README.md").read_text("utf-8")


def console_blocks() -> list[list[tuple[str, list[str]]]]:
    """Commands of each console block with the lines they print."""
    blocks = []
    for text in re.findall(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        commands: list[tuple[str, list[str]]] = []
        for line in text.splitlines():
            if line.startswith("$ "):
                commands.append((line[2:], []))
            else:
                commands[-1][1].append(line)
        blocks.append(commands)
    return blocks


def plain(line: str) -> str:
    """A line without what differs from run to run: seconds, and spaces in a row."""
    return re.sub(r" +", " ", re.sub(r"\d+\.\d s\b", "T s", line)).strip()


def matches(shown: list[str], wanted: list[str]) -> bool:
    """Whether the lines are the wanted ones, where `...` stands for any number of lines."""
    pattern = "".join(
        r"(?:.*\n)*" if line == "..." else re.escape(plain(line)) + r"\n" for line in wanted
    )
    return re.fullmatch(pattern, "".join(plain(line) + "\n" for line in shown)) is not None


def test_matching_is_strict() -> None:
    assert matches(["a  1.2 s", "x", "y", "b"], ["a 3.4 s", "...", "b"])
    assert not matches(["a", "b"], ["a"])
    assert not matches(["a", "c"], ["a", "b"])


@pytest.mark.backend
@pytest.mark.weights
@pytest.mark.parametrize("block", console_blocks(), ids=lambda b: b[0][0][:30])
def test_console_blocks_are_true(
    block: list[tuple[str, list[str]]], official: Checkpoint, tmp_path: Path
) -> None:
    (tmp_path / "calibration").symlink_to(REPOSITORY / "calibration")
    for command, wanted in block:
        program, *arguments = shlex.split(command)
        assert program == "effsam"
        done = subprocess.run(
            [sys.executable, "-m", "effsam_export", *arguments],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        # Both streams come through one pipe here; a bundle's path may come in anywhere.
        shown = [s for s in done.stdout.splitlines() if s != "mobile-sam-openvino-fp32"]
        assert sorted(map(plain, shown)) == sorted(map(plain, wanted)) or matches(shown, wanted)


def test_make_targets_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    for target in re.findall(r"make ([a-z]+)\b", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_files_that_are_named_exist() -> None:
    names = re.findall(r"`([\w./-]+/[\w./-]*|[\w-]+\.(?:py|toml|txt|md))`", README)
    assert len(names) > 8
    for name in names:
        if name.startswith("./") or name in ("manifest.json", "source/", "__init__.py"):
            continue
        found = (REPOSITORY / name).exists() or (REPOSITORY / "effsam_export" / name).exists()
        assert found, name


def test_the_changelog_has_this_version() -> None:
    assert f"## {__version__}" in (REPOSITORY / "CHANGELOG.md").read_text("utf-8")
