"""Markdown tables from rows of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def cell(text: str) -> str:
    """Text that cannot end its cell or start HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; cells may hold Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def code(text: str) -> str:
    """Text as code; empty stays empty. A backtick inside is not supported."""
    if "|" in text:
        # In backticks a table would show the backslash that escapes it.
        return f"<code>{text.replace('<', '&lt;').replace('|', '&#124;')}</code>"
    return f"`{text}`" if text else ""


def key_table(
    keys: Mapping[str, type], optional: Mapping[str, str], meanings: Mapping[str, str]
) -> str:
    """Return a table of TOML keys with their types and meanings.

    Args:
        keys: Key -> type, as the package checks it.
        optional: Key -> default, for keys that may be left out.
        meanings: Key -> sentence, for every key.

    Raises:
        ValueError: A key has no meaning here, or a meaning has no key.
    """
    if set(keys) != set(meanings):
        raise ValueError(f"documented {sorted(meanings)}, the package reads {sorted(keys)}")
    words = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    words |= {list: "list", dict: "table"}
    rows = [
        [code(k), words[kind], optional.get(k, "required"), meanings[k]] for k, kind in keys.items()
    ]
    return table(("key", "type", "default", "meaning"), rows)
