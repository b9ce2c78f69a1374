"""Tables that fit the terminal without breaking a word; whole rows where there is no terminal."""

from __future__ import annotations

import os
import textwrap
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

GAP = "  "
BELOW = "    "
"""Indent of the last column where it stands below its row."""


def width_of(stream: TextIO) -> int | None:
    """Return the columns of a terminal; None if the stream is a pipe, a file or closed."""
    with suppress(OSError, ValueError, AttributeError):
        if stream.isatty():
            given = os.environ.get("COLUMNS", "")
            columns = int(given) if given.isdecimal() else 0
            return columns or os.get_terminal_size(stream.fileno()).columns or None
    return None


def table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> str:
    """Return rows of text with aligned columns.

    Args:
        header: Name of each column.
        rows: Cells.
        width: Columns of the terminal. Wider rows have cells of several lines. If that is not
            enough, the last column stands below its row, and else each cell has a line of its own.
            None: no limit.
    """
    lines = [header, *rows]
    widths = [max(len(row[i]) for row in lines) for i in range(len(header))]
    if width is None or _total(widths) <= width:
        return "\n".join(_joined(row, widths) for row in lines)
    narrow = [max(_longest_word(row[i]) for row in lines) for i in range(len(header))]
    if len(header) == 2:
        # A single value may be longer than the terminal, as an address is. The others are wrapped.
        narrow[1] = min(narrow[1], max(width - narrow[0] - len(GAP), 1))
    if _total(narrow) <= width or len(header) == 2:
        _narrow_down(widths, narrow, lines, width)
        return "\n".join(line for row in lines for line in _wrapped(row, widths))
    if _total(narrow[:-1]) <= width:
        first = [row[:-1] for row in lines]
        del widths[-1]
        _narrow_down(widths, narrow, first, width)
        return "\n".join(
            line
            for cells, row in zip(first, lines, strict=True)
            for line in (*_wrapped(cells, widths), *_below(row[-1], width))
        )
    return "\n\n".join(_block(header, row, width) for row in rows)


def fill(text: str, width: int | None, indent: str = "") -> str:
    """Return text in lines of at most `width` characters, of which the further ones are indented.

    No word is broken.
    """
    if width is None:
        return text
    return "\n".join(_lines(text, width, indent))


def _narrow_down(
    widths: list[int], narrow: Sequence[int], lines: Sequence[Sequence[str]], width: int
) -> None:
    """Make columns narrower until rows fit, at the cost of as few lines as possible."""
    height = cache(lambda cell, columns: len(_lines(cell, columns)))

    def cost(column: int) -> tuple[int, int]:
        tried = [w - (i == column) for i, w in enumerate(widths)]
        heights = (max(map(height, row, tried)) for row in lines)
        return sum(heights), -widths[column]

    while _total(widths) > width:
        able = [i for i, w in enumerate(widths) if w > narrow[i]]
        if not able:
            # The longest word of the last column goes beyond the edge.
            break
        widths[min(able, key=cost)] -= 1


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)


def _joined(cells: Sequence[str], widths: Sequence[int]) -> str:
    return GAP.join(cell.ljust(w) for cell, w in zip(cells, widths, strict=True)).rstrip()


def _wrapped(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Return the lines of a row."""
    columns = [_lines(cell, w) for cell, w in zip(cells, widths, strict=True)]
    height = max(map(len, columns))
    filled = [column + [""] * (height - len(column)) for column in columns]
    return [_joined(line, widths) for line in zip(*filled, strict=True)]


def _below(cell: str, width: int) -> list[str]:
    """Return the last column of a row, indented."""
    lines = _lines(cell, width - len(BELOW)) if cell else []
    return [f"{BELOW}{line}" for line in lines]


def _block(header: Sequence[str], cells: Sequence[str], width: int) -> str:
    """Return a row as lines of name and value; empty cells are left out."""
    left = max(map(len, header))
    lines = []
    for name, cell in zip(header, cells, strict=True):
        if cell:
            first, *rest = _lines(cell, max(width - left - len(GAP), 1))
            lines.append(f"{name.ljust(left)}{GAP}{first.lstrip()}")
            lines += [f"{'':{left}}{GAP}{line}" for line in rest]
    return "\n".join(lines)


def _lines(text: str, width: int, indent: str = "") -> list[str]:
    wrapped = textwrap.wrap(
        text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return wrapped or [""]
