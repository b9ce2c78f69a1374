"""The exit codes, from the error classes."""

from __future__ import annotations

from docs.from_code.text import cell, code, table
from effsam_export import errors


def append_below(parent: type[errors.EffsamError], rows: list[list[str]]) -> None:
    """Append a row for each error below `parent`, children after their parent."""
    for kind in parent.__subclasses__():
        meaning = (kind.__doc__ or "").strip().splitlines()[0]
        rows.append([str(kind.exit_code), code(kind.__name__), cell(meaning)])
        append_below(kind, rows)


def all_errors() -> list[list[str]]:
    """Return exit code, error class and meaning of every error."""
    rows: list[list[str]] = []
    append_below(errors.EffsamError, rows)
    return [r for r in rows if r[1].strip("`") in vars(errors)]


def errors_table() -> str:
    """Return a table of exit codes with the errors that lead to them."""
    return table(("exit code", "error", "meaning"), sorted(all_errors(), key=lambda r: r[0]))
