"""Read TOML files, check their keys and values, and locate the data folders."""

from __future__ import annotations

import codecs
import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from effsam_export.errors import UnknownNameError, UsageError, joined, shown
from effsam_export.util.files import fault_of_file
from effsam_export.util.reasons import reason_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MAX_BYTES = 1_000_000
"""Maximum size of a TOML file; the largest that ships has 6 kB."""
MAX_KEY_PARTS = 64
MAX_ENTRIES = 10_000
"""Maximum number of entries in a list."""
INT64 = 2**63
"""Integers of TOML have 64 bits."""

_QUOTED = re.compile(r"""#[^\n]*|"(?:[^"\\\n]|\\.)*(?:"|\\?$)|'[^'\n]*(?:'|$)""", re.MULTILINE)
_DEEP_KEY = re.compile(r"(?:\.[ \t\w-]*){%d}" % MAX_KEY_PARTS)  # noqa: UP031 - braces of a pattern


def data_dir(kind: str) -> Path:
    """Return the folder `targets` or `calibration`: inside an installed package, or beside it."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "_data" / kind
    return packaged if packaged.is_dir() else package.parent / kind


def read_toml(path: Path, what: str = "file") -> dict[str, Any]:
    """Parse a TOML file of at most `MAX_BYTES`.

    Args:
        path: The file.
        what: Kind of the file, for messages.

    Raises:
        UsageError: The file is missing, cannot be read, is too large, nests too deeply, or is not
            valid TOML in UTF-8.
    """
    if fault := fault_of_file(path):
        raise UsageError(f"{what} `{path}` {fault}")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UsageError(
                f"{what} `{path}` has over {MAX_BYTES // 1_000_000} MB",
                hint="leave out entries, or use several files",
            )
        # Some editors write a byte order mark.
        text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
        if _DEEP_KEY.search(_QUOTED.sub("_", text)):
            raise UsageError(
                f"{what} `{path}` has a key of over {MAX_KEY_PARTS} parts joined by dots"
            )
        table: dict[str, Any] = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"{what} `{path}` cannot be read: {reason_of(error)}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"`{path}` is not valid TOML: {shown(reason_of(error))}") from error
    return table


def refuse(what: str, path: Path, problems: Sequence[str], *, hint: str | None = None) -> NoReturn:
    """Raise one error that names the faults of a file, each once.

    Raises:
        UsageError: Always.
    """
    raise UsageError(f"{what} `{path.name}`: {joined(problems)}", hint=hint)


def faults(table: object, keys: Mapping[str, type], where: str) -> list[str]:
    """Return the missing, unknown and wrongly typed keys of a table, as sentences."""
    if not isinstance(table, dict):
        return [f"`{where.removesuffix('.')}` is not a table"]
    problems = [f"`{where}{k}` is missing" for k in keys if k not in table]
    for key, value in table.items():
        if key not in keys:
            problems.append(unknown_name("key", key, keys, where))
        elif fault := value_fault(value, keys[key]):
            problems.append(f"`{where}{key}` {fault}")
    return problems


def value_fault(value: object, kind: type) -> str | None:
    """Return why a TOML value is not of a type, as the end of a sentence; None if it is.

    Integers have to be of 64 bits, texts without control characters, and lists of at most
    `MAX_ENTRIES`. An integer is a valid float, a boolean is no number. A float may be NaN or
    infinite: whoever checks its range refuses that.
    """
    if type(value) is not kind and not (kind is float and type(value) is int):
        return f"is not of type {kind.__name__}"
    if isinstance(value, int) and not -INT64 <= value < INT64:
        return "is not a number of 64 bits"
    if isinstance(value, str) and not all(c.isprintable() or c in "\n\t" for c in value):
        return "has control characters"
    if isinstance(value, list) and len(value) > MAX_ENTRIES:
        return f"has over {MAX_ENTRIES} entries"
    return None


def is_of_type(value: object, kind: type) -> bool:
    """Return whether `value_fault` has nothing against a TOML value."""
    return value_fault(value, kind) is None


def range_faults(table: object, key: str, where: str, least: float, most: float) -> list[str]:
    """Return a sentence if a table's number is out of range; values of other types are left out."""
    value = table.get(key) if isinstance(table, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or least <= value <= most:
        return []
    if value > most:
        return [f"`{where}{key}` is more than {most}"]
    return [f"`{where}{key}` is {'negative' if least == 0 else f'less than {least}'}"]


def is_name(value: object) -> bool:
    """Return whether a TOML value is a text of one line that is not empty."""
    return isinstance(value, str) and value.strip() != "" and value.isprintable()


def unknown_name(kind: str, name: str, known: Iterable[str], where: str = "") -> str:
    """Return a sentence about an unknown name, with similar known names."""
    hint = UnknownNameError(kind, name, known).hint
    return f"unknown {kind} `{where}{shown(name)}` ({hint})"


def is_number_list(value: object, count: int) -> bool:
    """Return whether a TOML value is a list of `count` finite numbers."""
    return (
        isinstance(value, list)
        and len(value) == count
        and all(is_of_type(v, float) and math.isfinite(v) for v in value)
    )
