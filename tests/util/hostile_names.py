"""Names that are no file names on one system or another, by kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.util.names import DEVICES, FORBIDDEN

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

WORDS = ("cup", "left eye", "tasse-à-café", "湯呑み", "नमस्\u200dते", "a.b", "x_1", "con-1", "é")
CONTROLS = (
    *map(chr, range(32)),
    "\x7f\x85\u200b\u200e\u202e\u2028\u2029\ufeff\ud800\udc80\udfff\ue000",
)


def good_names(chance: random.Random, number: int) -> Iterator[str]:
    """Yield names that are allowed."""
    for _ in range(number):
        yield "-".join(chance.sample(WORDS, chance.randint(1, 3)))


def bad_names(chance: random.Random, number: int) -> Iterator[tuple[str, str]]:
    """Yield a number of (kind, name), of all kinds in turn."""
    kinds = (_path, _control, _long, _device, _dots, _forbidden)
    for i in range(number):
        yield kinds[i % len(kinds)](chance, chance.choice(WORDS))


def _path(chance: random.Random, word: str) -> tuple[str, str]:
    parts = chance.choices(("..", ".", "", word, "~", "C:"), k=chance.randint(1, 5))
    return "path", chance.choice("/\\").join([*parts, word])


def _control(chance: random.Random, word: str) -> tuple[str, str]:
    at = chance.randint(0, len(word))
    mark = chance.choice("".join(CONTROLS))
    return "control", word[:at] + mark + word[at:]


def _long(chance: random.Random, word: str) -> tuple[str, str]:
    return "long", word * chance.randint(101, 5000)


def _device(chance: random.Random, word: str) -> tuple[str, str]:
    name = chance.choice(sorted(DEVICES))
    name = "".join(chance.choice((c.lower(), c.upper())) for c in name)
    return "device", name + chance.choice(("", ".npy", f".{word}", " .x"))


def _dots(chance: random.Random, word: str) -> tuple[str, str]:
    return "dots", chance.choice(("", ".", "..", f".{word}", f"{word}.", f" {word}", f"{word} "))


def _forbidden(chance: random.Random, word: str) -> tuple[str, str]:
    return "forbidden", f"{word}{chance.choice(FORBIDDEN)}{word}"
