"""The manifest key by key, from its JSON Schema."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docs.from_code.text import cell, code, table

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMAS = Path(__file__).resolve().parents[2] / "effsam_export" / "schemas"


def newest() -> tuple[int, Path]:
    """Return number and path of the newest manifest schema.

    Raises:
        ValueError: There is no schema.
    """
    found = {
        int(match[1]): path
        for path in SCHEMAS.glob("manifest-v*.schema.json")
        if (match := re.fullmatch(r"manifest-v(\d+)\.schema\.json", path.name))
    }
    number = max(found)
    return number, found[number]


def tables() -> str:
    """Return a section for each top-level key, in alphabetical order as in the file."""
    number, path = newest()
    schema = json.loads(path.read_text("utf-8"))
    intro = f"The current `manifest_version` is {number}; its schema is `{path.name}`.\n"
    plain, parts = [], []
    for name in sorted(schema["properties"]):
        entry = schema["properties"][name]
        needed = name in schema["required"]
        rows = list(keys_below(entry, ""))
        if not rows:
            plain.append(row(name, entry, needed=needed))
            continue
        about = cell(entry.get("description", "")).rstrip(".")
        note = "" if needed else "Only in some bundles. "
        text = f"{note}{about[:1].upper()}{about[1:]}{'.' if about else ''}"
        parts.append(f"## {name}\n\n{text}\n")
        parts.append(table(("key", "type", "in", "meaning"), rows))
    head = table(("key", "type", "in", "meaning"), plain)
    return "\n".join([intro, "## Single values\n", head, *parts])


def keys_below(entry: dict[str, Any], prefix: str) -> Iterator[list[str]]:
    """Yield a row for each key of an object or of a list's objects, at any depth."""
    inner = object_of(entry)
    if inner is None:
        return
    is_list = entry.get("type") == "array"
    start = f"{prefix}[]." if is_list else (f"{prefix}." if prefix else "")
    named = inner.get("properties", {})
    for name, value in named.items():
        yield row(f"{start}{name}", value, needed=name in inner.get("required", []))
        yield from keys_below(value, f"{start}{name}")
    free = inner.get("additionalProperties")
    if isinstance(free, dict) and (named or prefix == "") and object_of(free) is None:
        yield row(f"{start}NAME", free, needed=False)
    elif isinstance(free, dict):
        yield from keys_below(free, f"{start}NAME")


def object_of(entry: dict[str, Any]) -> dict[str, Any] | None:
    """Return the schema of the object in an entry: its own, its items', or one alternative's."""
    if entry.get("type") == "array" and isinstance(entry.get("items"), dict):
        return object_of(entry["items"])
    if "properties" in entry or isinstance(entry.get("additionalProperties"), dict):
        return entry
    for choice in entry.get("anyOf", []):
        if (inner := object_of(choice)) is not None:
            return inner
    return None


def row(name: str, entry: dict[str, Any], *, needed: bool) -> list[str]:
    """Return key, type, whether every bundle has it, and its meaning."""
    return [
        code(name),
        type_of(entry),
        "all" if needed else "some",
        cell(entry.get("description", "")),
    ]


def type_of(entry: dict[str, Any]) -> str:
    """Return the type of a value in words."""
    if "const" in entry:
        return code(json.dumps(entry["const"]))
    if "enum" in entry:
        return ", ".join(code(json.dumps(v)) for v in entry["enum"])
    if "anyOf" in entry:
        return " or ".join(dict.fromkeys(type_of(e) for e in entry["anyOf"]))
    kinds = entry.get("type", "any")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if kinds == ["array"]:
        return f"list of {type_of(entry.get('items', {}))}"
    return " or ".join(kinds)
