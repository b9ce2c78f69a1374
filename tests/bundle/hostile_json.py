"""Generators of hostile JSON documents: text that is not JSON, and values that break a contract.

Each function takes a random number generator and a valid document, and returns the bytes of one
hostile file. The same generator state gives the same bytes.
"""

from __future__ import annotations

import json
from copy import deepcopy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    Kind = Callable[[Random, Any], bytes]

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    10**30,
    10**99,
    -(10**99),
    0.5,
    1e308,
    -1e308,
    "",
    "x",
    "..",
    "a/../../b",
    "aux",
    "manifest.json",
    "\x1b[2J",
    "\u202e",
    "é" * 300,
    "x" * 70_000,
    [],
    {},
    [[]],
    [None],
    [1, 2],
    {"size": [1 << 40, 1 << 40], "counts": [1 << 80]},
    {"a": {"b": {"c": []}}},
)
INSERTS = (b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"[" * 5000, b'"\\ud800"', b"\0", b"\xff")


def text_of(document: object) -> bytes:
    return json.dumps(document, indent=1).encode()


def broken_text(random: Random, document: object) -> bytes:
    """A document cut off, with other bytes, or with something inserted that JSON lacks."""
    text = bytearray(text_of(document))
    for _ in range(random.randint(1, 3)):
        place = random.randrange(len(text))
        match random.randrange(4):
            case 0:
                del text[place : place + random.randint(1, 1 << random.randint(0, 12))]
            case 1:
                text[place] = random.randrange(256)
            case 2:
                text[place:place] = random.choice(INSERTS)
            case _:
                end = text.find(b"\n", place)
                text[place:end] = random.choice(INSERTS)
        if not text:
            return b""
    return bytes(text)


def encoded(random: Random, document: object) -> bytes:
    """A document in another encoding, after a byte order mark, or among other bytes."""
    text = text_of(document).decode()
    codec = random.choice(("utf-16", "utf-32", "utf-8-sig", "cp037", "utf-7"))
    prefix = bytes(random.randrange(256) for _ in range(random.randint(0, 3)))
    return prefix + text.encode(codec) + random.choice((b"", b"\0", b"{}", b"\x1a"))


def expanding(random: Random, document: Any) -> bytes:  # noqa: ANN401 - any JSON
    """A document that takes far more memory or time than its size: many values, or deep ones."""
    count = 1 << random.randint(8, 18)
    filler = random.choice(
        (
            b"[" + b"{}," * count + b"{}]",
            b"[" + b'"",' * count + b'""]',
            b"[" + b"0," * count + b"0]",
            b"[" * count + b"]" * count,
            b'{"a":' * count + b"0" + b"}" * count,
            b"{" + b",".join(b'"%d":{}' % i for i in range(count)) + b"}",
            b"1" * count,
            b'"' + b"\\n" * count + b'"',
        )
    )
    marked = deepcopy(document)
    replace_one(random, marked, "@filler@")
    return text_of(marked).replace(b'"@filler@"', filler)


def repeated_key(random: Random, document: Any) -> bytes:  # noqa: ANN401 - any JSON
    """A document with a key twice in one object, the second with another value."""
    text = text_of(document)
    keys = [i for i in range(len(text)) if text[i : i + 2] == b"{\n"]
    place = random.choice(keys) + 1
    name = text[place:].split(b'"')[1] if b'"' in text[place:] else b"x"
    value = json.dumps(random.choice(VALUES)).encode()
    return text[:place] + b'"' + name + b'":' + value + b"," + text[place:]


def other_values(random: Random, document: Any) -> bytes:  # noqa: ANN401 - any JSON
    """A document in which some values have another type or size, are gone, or occur twice."""
    changed = deepcopy(document)
    for _ in range(random.randint(1, 3)):
        replace_one(random, changed, random.choice(VALUES))
    return text_of(changed)


def replace_one(random: Random, document: Any, value: object) -> None:  # noqa: ANN401 - any JSON
    """Replace, remove or double one value anywhere in a document."""
    where, key = random.choice(places(document))
    match random.randrange(5):
        case 0 if value != "@filler@":
            del where[key]
        case 1 if isinstance(where, list) and value != "@filler@":
            where.append(deepcopy(where[key]))
        case 2 if isinstance(where[key], (int, float)) and value != "@filler@":
            where[key] = where[key] * random.choice((-1, 0, 2, 0.5, 10**6))
        case _:
            where[key] = deepcopy(value)


def places(document: Any) -> list[tuple[Any, Any]]:  # noqa: ANN401 - any JSON
    """Every (container, key or index) in a document."""
    found: list[tuple[Any, Any]] = []
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        found.append((document, key))
        if isinstance(value, (dict, list)):
            found += places(value)
    return found


KINDS: dict[str, Kind] = {
    "broken text": broken_text,
    "encoded": encoded,
    "expanding": expanding,
    "repeated key": repeated_key,
    "other values": other_values,
}
