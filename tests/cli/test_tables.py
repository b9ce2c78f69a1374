"""Tables: aligned, in the terminal's width, no word broken; whole rows in a pipe."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from effsam_export.cli import tables
from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Sequence

HEADER = ("name", "state", "what")
ROWS = [
    ["mobile-sam", "verified", "an encoder that is small and quick"],
    ["sam", "architecture verified", "-"],
]


def in_terminal(command: Sequence[str], columns: int) -> str:
    """Run a command in a pseudo-terminal, and return what it printed."""
    master, slave = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "effsam_export", *command],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**environment, "PYTHONPATH": str(REPOSITORY)},
    )
    os.close(slave)
    parts = []
    # Linux reports the end of a pseudo-terminal as an error.
    with suppress(OSError):
        while part := os.read(master, 65536):
            parts.append(part)
    os.close(master)
    assert process.wait() == 0
    return b"".join(parts).decode().replace("\r\n", "\n")


def words(text: str) -> list[str]:
    return sorted(text.split())


def test_without_a_terminal_rows_are_whole() -> None:
    assert tables.table(HEADER, ROWS, None).splitlines() == [
        "name        state                  what",
        "mobile-sam  verified               an encoder that is small and quick",
        "sam         architecture verified  -",
    ]


def test_cells_are_wrapped_at_their_words() -> None:
    assert tables.table(HEADER, ROWS, 60).splitlines() == [
        "name        state                  what",
        "mobile-sam  verified               an encoder that is small",
        "                                   and quick",
        "sam         architecture verified  -",
    ]


def test_the_column_that_costs_fewest_lines_is_narrowed() -> None:
    rows = [["a", "one long cell of words", "x y"], *[["b", "c", "two words"]] * 9]
    assert tables.table(HEADER, rows, 30).splitlines()[:4] == [
        "name  state          what",
        "a     one long cell  x y",
        "      of words",
        "b     c              two words",
    ]


def test_the_last_column_stands_below_where_words_do_not_fit() -> None:
    rows = [["a" * 15, "b" * 15, "some words of the last one"], ["c", "d", ""]]
    assert tables.table(HEADER, rows, 34).splitlines() == [
        "name             state",
        "    what",
        f"{'a' * 15}  {'b' * 15}",
        "    some words of the last one",
        "c                d",
    ]


@pytest.mark.parametrize("width", range(44, 90))
def test_every_width_keeps_the_words(width: int) -> None:
    text = tables.table(HEADER, ROWS, width)
    assert max(map(len, text.splitlines())) <= width
    assert words(text) == words(tables.table(HEADER, ROWS, None))


def test_a_long_word_in_the_last_column_stays_whole() -> None:
    rows = [["path", "x" * 100], ["text", "words that take more than one line of the terminal"]]
    assert tables.table(("what", "value"), rows, 40).splitlines()[1:] == [
        f"path  {'x' * 100}",
        "text  words that take more than one line",
        "      of the terminal",
    ]


def test_rows_become_blocks_where_no_column_can_be_narrow_enough() -> None:
    rows = [["a" * 30, "b" * 30, "some words of the last cell"], ["c", "", "d"]]
    assert tables.table(HEADER, rows, 40).splitlines() == [
        f"name   {'a' * 30}",
        f"state  {'b' * 30}",
        "what   some words of the last cell",
        "",
        "name   c",
        "what   d",
    ]


def test_text_is_filled() -> None:
    assert tables.fill("  one two three-four", 12, "    ") == "  one two\n    three-four"
    assert tables.fill("one two", None) == "one two"


def test_a_file_has_no_width() -> None:
    assert tables.width_of(io.StringIO()) is None


@pytest.mark.parametrize("command", ["list", "targets"])
@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_shows_whole_words(command: str, columns: int) -> None:
    shown = in_terminal([command], columns)
    piped = subprocess.run(
        [sys.executable, "-m", "effsam_export", command],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert max(map(len, shown.splitlines())) <= columns
    assert words(shown) == words(piped)
    assert max(map(len, piped.splitlines())) > 80
