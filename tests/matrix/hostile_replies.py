"""Replies of a worker that lies: `KINDS` maps a kind to a generator of one case.

A generator takes a `random.Random` and returns bytes. Decoding them gives a reply or one error.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from effsam_export.matrix.reply import LENGTH_BYTES, Reply, encode
from effsam_export.matrix.worker import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**64, 10**400, 1e308, -0.5, 2.0, "", "x", "verified", "failed", "../x",
    "/etc/passwd", "a\0b", "log.txt", "\ud800", [], [[]], [["x", 1]], {}, {"x": 1}, "y" * 200_000,
)  # fmt: skip


def honest() -> bytes:
    outcome = Outcome(state="failed", message="no", seconds=1.5)
    return encode(Reply(outcome=outcome, evidence={"log.txt": b"log", "parity.json": b"{}"}))


def with_header(header: object, contents: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(LENGTH_BYTES, "big") + text + contents


def bytes_changed(random: Random) -> bytes:
    """A reply with bytes changed, inserted, removed or cut off."""
    data = bytearray(honest())
    for _ in range(random.randint(1, 8)):
        at = random.randrange(len(data)) if data else 0
        match random.randrange(4):
            case 0:
                data[at : at + 1] = random.randbytes(1)
            case 1:
                data[at:at] = random.randbytes(random.randint(1, 9))
            case 2:
                del data[at : at + random.randint(1, 9)]
            case _:
                del data[random.randint(0, len(data)) :]
    return bytes(data)


def fields_changed(random: Random) -> bytes:
    """A header with fields of other types and values, or with fields missing or added."""
    outcome = asdict(Outcome(state=random.choice(["failed", "verified"])))
    header: dict[str, Any] = {"outcome": outcome, "bundle": None, "evidence": [["log.txt", 3]]}
    for _ in range(random.randint(1, 3)):
        table = random.choice([header, outcome])
        key = random.choice([*table, "added"])
        if random.random() < 0.8:
            table[key] = random.choice(VALUES)
        else:
            table.pop(key, None)
    return with_header(header, random.choice([b"log", b"", b"x" * 50]))


def names_and_sizes(random: Random) -> bytes:
    """File names that are paths, and sizes that are negative, huge or not the contents'."""
    evidence = [[random.choice(VALUES), random.choice(VALUES)] for _ in range(random.randint(1, 4))]
    evidence.append(["log.txt", random.choice([3, -3, 3.0, True, 2**63])])
    outcome = asdict(Outcome(state="failed"))
    return with_header({"outcome": outcome, "bundle": None, "evidence": evidence}, b"log")


def deep(random: Random) -> bytes:
    """A header of brackets, digits or many values, or one whose length is a lie."""
    text = random.choice([b"[" * 100_000, b"9" * 100_000, b"[" + b"{}," * 200_000, b'{"a":' * 9999])
    length = random.choice([len(text), 0, 1, 2**63, len(text) + 1])
    return length.to_bytes(LENGTH_BYTES, "big") + text


KINDS: dict[str, Callable[[Random], bytes]] = {
    "bytes changed": bytes_changed,
    "fields changed": fields_changed,
    "names and sizes": names_and_sizes,
    "deep": deep,
}
