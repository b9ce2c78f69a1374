"""Read TOML files, check their keys, and locate the data folders."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effsam_export.errors import UnknownNameError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def data_dir(kind: str) -> Path:
    """Return the folder `targets` or `calibration`: inside an installed package, or beside it."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "_data" / kind
    return packaged if packaged.is_dir() else package.parent / kind


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file.

    Raises:
        UsageError: The file is not valid TOML in UTF-8.
    """
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"`{path}` is not valid TOML: {error}") from error
    return table


def faults(table: object, keys: Mapping[str, type], where: str) -> list[str]:
    """Return the missing, unknown and wrongly typed keys of a table, as sentences."""
    if not isinstance(table, dict):
        return [f"`{where.removesuffix('.')}` is not a table"]
    problems = [f"`{where}{k}` is missing" for k in keys if k not in table]
    for key, value in table.items():
        if key not in keys:
            problems.append(unknown_name("key", key, keys, where))
        elif not is_of_type(value, keys[key]):
            problems.append(f"`{where}{key}` is not of type {keys[key].__name__}")
    return problems


def is_of_type(value: object, kind: type) -> bool:
    """Return whether a TOML value has a type. An integer is a valid float, a boolean is not."""
    return type(value) is kind or (kind is float and type(value) is int)


def unknown_name(kind: str, name: str, known: Iterable[str], where: str = "") -> str:
    """Return a sentence about an unknown name, with similar known names."""
    return f"unknown {kind} `{where}{name}` ({UnknownNameError(kind, name, known).hint})"


def is_number_list(value: object, count: int) -> bool:
    """Return whether a TOML value is a list of `count` numbers."""
    return (
        isinstance(value, list) and len(value) == count and all(is_of_type(v, float) for v in value)
    )
