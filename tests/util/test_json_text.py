"""JSON of strangers: what is read, and what is refused before it costs memory or time."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from effsam_export.util import json_text

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"a": [1, -2.5, True, None, "\\", '"', "[[[[", "\U0001f600"]},
        ["\\ud800 is text here"],
        [10**99, 1e308, 5e-324],
        ["9" * 5000],
        json.loads("[" * 63 + "]" * 63),
        {"x" * i: i for i in range(100)},
    ],
    ids=["empty", "values", "escaped", "numbers", "digits as text", "63 levels", "keys"],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_what_json_writes_is_read(document: object, ascii_only: bool) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only)
    assert json_text.loads(text.encode()) == document


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"[1] x", "Extra data"),
        (b"\xef\xbb\xbf[]", "BOM"),
        (b"\xff\xfe[\0]\0", "can't decode"),
        (b'["\xed\xa0\x80"]', "can't decode"),
        (b'["\\ud800"]', "surrogates not allowed"),
        (b'{"\\uDFFF": 1}', "surrogates not allowed"),
        (b"[NaN]", "NaN is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b"[1e400]", "beyond the range"),
        (b"[-" + b"7" * 5000 + b"]", "a number has 5001 characters"),
        (b"[0." + b"1" * 5000 + b"]", "a number has 5002 characters"),
        (b'{"a": 1, "b": 2, "a": 1}', 'the key "a" occurs twice'),
        (b'[{"\\u0061": {}, "a": {}}]', 'the key "a" occurs twice'),
        (b"[" * 65 + b"]" * 65, "nested deeper than 64"),
        (b'{"a":' * 100_000, "nested deeper than 64"),
        (b'["\\\\", ' + b"[" * 70, "nested deeper than 64"),
        (b"[" + b"{}," * 500_000 + b"{}]", "too many values"),
        (b"[" + b'"",' * 500_000 + b'""]', "too many values"),
        (b"[" + b"0," * 4_000_000 + b"0]", "too many values"),
        (b" " * 16_000_001, "more than 16000000 bytes"),
    ],
)
def test_what_is_refused(content: bytes, message: str) -> None:
    began = time.perf_counter()
    with pytest.raises(ValueError, match=message):
        json_text.loads(content)
    assert time.perf_counter() - began < 2


def test_limits_of_a_caller() -> None:
    assert json_text.loads(b"[1,2]", max_bytes=5, max_values=2) == [1, 2]
    with pytest.raises(ValueError, match="more than 4 bytes"):
        json_text.loads(b"[1,2]", max_bytes=4)
    with pytest.raises(ValueError, match="too many values"):
        json_text.loads(b"[1,2]", max_values=1)


def test_no_more_of_a_file_is_read_than_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'{"a": 1}')
    assert json_text.load(path) == {"a": 1}
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="more than 16000000 bytes"):
        json_text.load(path)
    with pytest.raises(OSError, match="No such file"):
        json_text.load(tmp_path / "absent")
