"""Read JSON that a stranger may have written, within bounds on its size, depth and numbers.

`json.loads` alone accepts NaN, keys that occur twice and text that cannot be printed, and builds
hundreds of bytes for each byte of some documents.
"""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 16_000_000
MAX_VALUES = 4_000_000
"""Commas and opening brackets, which is a little more than the number of values."""
MAX_DEPTH = 64
MAX_DIGITS = 100
"""Characters of one number. An integer of this length still converts to a float."""
MAX_MARKS = 400_000
"""Opening brackets and quotes. Containers and strings take far more memory than numbers."""
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
BRACKETS_AND_QUOTES = b'[]{}"'
REST = bytes(set(range(256)) - set(BRACKETS_AND_QUOTES))
ZEROS = bytes.maketrans(b"123456789", b"000000000")


def loads(
    content: bytes,
    *,
    max_bytes: int = MAX_BYTES,
    max_values: int = MAX_VALUES,
    max_marks: int = MAX_MARKS,
) -> Any:  # noqa: ANN401
    """Return the value of a JSON document.

    Args:
        content: UTF-8 without a byte order mark.
        max_bytes: Maximum size of the document.
        max_values: Maximum number of its values.
        max_marks: Maximum number of its opening brackets and quotes.

    Raises:
        ValueError: It is not JSON, is over a limit, repeats a key, or holds NaN, an infinite
            number or half of a surrogate pair.
    """
    if len(content) > max_bytes:
        raise ValueError(f"it has more than {max_bytes} bytes")
    opening = content.count(b"[") + content.count(b"{")
    if opening + content.count(b",") > max_values or opening + content.count(b'"') > max_marks:
        raise ValueError("it has too many values")
    if _depth(content) > MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    document = json.loads(
        content.decode("utf-8"),
        # A function for each integer would take three times as long.
        parse_int=_integer if b"0" * MAX_DIGITS in content.translate(ZEROS) else None,
        parse_float=_real,
        parse_constant=_not_a_number,
        object_pairs_hook=_object,
    )
    if SURROGATE.search(content):
        # Raises UnicodeEncodeError, a ValueError, for half of a pair.
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    return document


def load(
    path: Path,
    *,
    max_bytes: int = MAX_BYTES,
    max_values: int = MAX_VALUES,
    max_marks: int = MAX_MARKS,
) -> Any:  # noqa: ANN401
    """Return the value of a JSON file, of which at most `max_bytes` + 1 bytes are read.

    Raises:
        OSError: The file cannot be read.
        ValueError: As `loads`.
    """
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    return loads(content, max_bytes=max_bytes, max_values=max_values, max_marks=max_marks)


def _depth(content: bytes) -> int:
    """Return the depth of a document's brackets, those in strings left out."""
    plain = content.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, REST)
    outside = b"".join(plain.split(b'"')[::2])
    return max(accumulate(1 if c in b"[{" else -1 for c in outside), default=0)


def _integer(text: str) -> int:
    return int(_short(text))


def _real(text: str) -> float:
    value = float(_short(text))
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text} is beyond the range of a 64-bit float")
    return value


def _short(text: str) -> str:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number has {len(text)} characters, more than {MAX_DIGITS}")
    return text


def _not_a_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        seen: set[str] = set()
        key = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {json.dumps(key)[:80]} occurs twice in one object")
    return document
