"""Checks of what a person typed for numbers and paths, before Typer converts it."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

from effsam_export.errors import UsageError, shown
from effsam_export.util.numbers import to_number, to_whole
from effsam_export.util.reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable


def check_values(command: Any) -> Any:  # noqa: ANN401 - Typer's own kind of command
    """Return a command whose options and arguments are checked as text first."""
    for parameter in command.params:
        parameter.type_cast_value = partial(_checked, parameter, parameter.type_cast_value)
    return command


def _checked(parameter: Any, convert: Callable[..., Any], context: Any, value: Any) -> Any:  # noqa: ANN401
    """Convert the text of an option or argument.

    Raises:
        UsageError: It is not a number in decimal digits, or a path that the system refuses.
    """
    kind = parameter.type.name.split()[0]  # "int range", or "integer range" in older versions
    for text in value if isinstance(value, (list, tuple)) else (value,):
        fault = _fault(kind, text) if isinstance(text, str) else None
        if fault is not None:
            name = max(parameter.opts, key=len)
            name = name if name.startswith("-") else parameter.metavar or name.upper()
            raise UsageError(f"{name} `{shown(text)}`: {fault}")
    return convert(context, value)


def _fault(kind: str, text: str) -> str | None:
    """Return why a text is not a value of a kind, or None."""
    if kind in ("int", "integer"):
        return "not a whole number" if to_whole(text) is None else None
    if kind == "float":
        return "not a decimal number" if to_number(text) is None else None
    if kind != "path":
        return None
    if not text:
        return "the path is empty"
    try:
        os.lstat(text)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return reason_of(error)
    return None
