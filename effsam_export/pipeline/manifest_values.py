"""Compare a part of a manifest with what it has to be, value by value."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ABSENT = "nothing"
"""Stands for a key that is missing on one side."""
SHOWN = 80
"""Characters of a value that a sentence shows."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One value of a manifest that is not the expected one.

    Attributes:
        path: Keys from the top of the manifest, as `preprocess.resize.filter`.
    """

    path: str
    stated: object
    expected: object

    def sentence(self, source: str) -> str:
        """Return the difference in words; `source` says where the expected value is from."""
        return f"`{self.path}` is {shown(self.stated)}, want {shown(self.expected)} ({source})"


def differences(path: str, stated: object, expected: object) -> Iterator[Difference]:
    """Yield the values in which two JSON documents differ, each with its own path.

    An integer equals a float of the same value. A boolean equals no number. Lists of different
    lengths are one difference.
    """
    if isinstance(stated, dict) and isinstance(expected, dict):
        for key in sorted({*stated, *expected}):
            yield from differences(
                f"{path}.{key}" if path else key,
                stated.get(key, ABSENT),
                expected.get(key, ABSENT),
            )
    elif isinstance(stated, list) and isinstance(expected, list) and len(stated) == len(expected):
        for i, (ours, theirs) in enumerate(zip(stated, expected, strict=True)):
            yield from differences(f"{path}[{i}]", ours, theirs)
    elif isinstance(stated, bool) is not isinstance(expected, bool) or stated != expected:
        yield Difference(path=path, stated=stated, expected=expected)


def shown(value: object) -> str:
    """Return a value as one short line of ASCII without control characters."""
    text = value if value is ABSENT else json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
