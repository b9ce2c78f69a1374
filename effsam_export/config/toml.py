"""Read TOML files and check their keys; find the data folders."""

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
    """The folder `targets` or `calibration`: inside the package in a wheel, else beside it."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "_data" / kind
    return packaged if packaged.is_dir() else package.parent / kind


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file, with its faults as a usage error."""
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"`{path}` is not valid TOML: {error}") from error
    return table


def faults(table: object, keys: Mapping[str, type], where: str) -> list[str]:
    """Missing, unknown and wrongly typed keys of a table, as sentences."""
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
    """Whether a TOML value is of a type; a whole number is a float too, a truth value is not."""
    return type(value) is kind or (kind is float and type(value) is int)


def unknown_name(kind: str, name: str, known: Iterable[str], where: str = "") -> str:
    """A name that is in no table, with the nearest ones."""
    return f"unknown {kind} `{where}{name}` ({UnknownNameError(kind, name, known).hint})"


def is_number_list(value: object, count: int) -> bool:
    """Whether a TOML value is a list of so many numbers."""
    return (
        isinstance(value, list) and len(value) == count and all(is_of_type(v, float) for v in value)
    )
