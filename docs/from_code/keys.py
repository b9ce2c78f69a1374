"""Keys of JSON documents with their meanings."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

Keys = dict[str, str]


def under(prefix: str, keys: Mapping[str, str]) -> Keys:
    """Keys below another one."""
    return {f"{prefix}{key}": meaning for key, meaning in keys.items()}


def of(record: type[Any], meanings: Keys, prefix: str = "") -> Keys:
    """Keys of a dataclass with their meanings.

    Raises:
        ValueError: A field has no meaning here, or a meaning has no field.
    """
    names = [f.name for f in fields(record)]
    if sorted(names) != sorted(meanings):
        raise ValueError(f"{record.__name__} has {sorted(names)}, documented {sorted(meanings)}")
    return {f"{prefix}{name}": meanings[name] for name in names}
