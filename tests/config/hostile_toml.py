"""Damaged and absurd TOML files, made from the files that ship: for quick tests and for fuzzing.

Each function of `KINDS` takes a random generator and the text of a valid file, and returns the
bytes of a hostile one. Many are still valid; no reader may end in anything but its value or a
`UsageError`.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import tomli_w

from effsam_export.config import calibration, fp16_recipe, int8_recipe, parity, targets
from effsam_export.matrix import config as build_file
from tests.paths import REPOSITORY

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from random import Random

FP16_RECIPE = """
[[keep]]
component = "encoder"
modules = ["neck.*", "image_encoder.layers.0"]
ops = ["Softmax"]
recursive = false
reason = "values over 65504"
source = "measured"
"""
BUILD_FILE = """
models = ["mobile-sam", "edge-sam"]
targets = ["onnx", "openvino"]
precisions = ["fp32", "int8"]
output = "dist"
calibration = "default"
leave_out = [{ model = "edge-sam", target = "onnx", precision = "int8" }]
[options.openvino]
device = "CPU"
[requires]
onnx = "a-label"
"""

READERS: dict[str, Callable[[Path], object]] = {
    "target": lambda path: targets.load_target(str(path)),
    "parity": parity.load_parity_images,
    "calibration": lambda path: calibration.load(str(path)),
    "int8": lambda path: int8_recipe.load("mobile-sam", path),
    "fp16": lambda path: fp16_recipe.load(path, ["encoder", "decoder"]),
    "build": build_file.load,
}
"""Kind of file -> its reader."""


def valid_files() -> list[tuple[str, str]]:
    """Return kind and text of every file that ships, and of a few that do not."""
    folder = REPOSITORY / "calibration"
    paths = [
        *(("target", p) for p in sorted((REPOSITORY / "targets").glob("*.toml"))),
        *(("int8", p) for p in sorted((folder / "int8").glob("*.toml"))),
        ("parity", folder / "parity.toml"),
        ("calibration", folder / "default.toml"),
        ("build", REPOSITORY / "effsam.toml"),
    ]
    return [
        *((kind, path.read_text("utf-8")) for kind, path in paths),
        ("fp16", FP16_RECIPE),
        ("build", BUILD_FILE),
    ]


def parse(text: str) -> dict[str, Any]:
    """Return the table of a TOML text."""
    return tomllib.loads(text)


def values(random: Random) -> Any:  # noqa: ANN401 - any TOML value
    """Return a value of any type, often at or over a limit."""
    return random.choice(
        [
            *(0, -1, 1, 2, 10**10, 2**63 - 1, -(2**63), 3),
            *(0.0, -0.5, 1.5, 1e308, -1e308, 5e-324, float("nan"), float("inf"), -float("inf")),
            *(True, False, "", " ", "x", "int8", "onnx", "\0", "\x1b[2J", "a\nb", "x" * 300),
            *("../../x", "/dev/zero", "/", "é" * 200, "\u202eabc", "x" * 50_000),
            *([], [[]], [[[[]]]], [0], [True], [""], ["x", 1], [{}], {}, {"": 1}, {"x": {"y": []}}),
            *({"a.b": 1}, [float("nan")] * 3, [1e400, 1, 1], {"\x1b": "\x1b"}, ["\0"]),
            *([{"model": 1}], [{"model": []}], [{"target": {}}], list(range(3000))),
        ]
    )


def slots(node: Any) -> list[tuple[Any, Any]]:  # noqa: ANN401 - any TOML value
    """Return every (table or list, key or index) below a value."""
    keys = list(node) if isinstance(node, dict) else range(len(node))
    own = [(node, key) for key in keys]
    below = [slots(node[key]) for key in keys if isinstance(node[key], (dict, list))]
    return own + [slot for some in below for slot in some]


def changed(random: Random, text: str, change: Callable[[Any, Any], None]) -> bytes:
    """Return a file with one to three changes of random keys."""
    table = tomllib.loads(text)
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        if places := slots(table):
            node, key = random.choice(places)
            change(node, key)
    return tomli_w.dumps(table).encode("utf-8", "surrogatepass")


def deleted(random: Random, text: str) -> bytes:
    """Leave out keys or items."""
    return changed(random, text, lambda node, key: node.pop(key))


def replaced(random: Random, text: str) -> bytes:
    """Put another value in the place of one, of any type."""
    return changed(random, text, lambda node, key: node.__setitem__(key, values(random)))


def wrapped(random: Random, text: str) -> bytes:
    """Put a value into a list or a table, or take the first item out of one."""

    def change(node: Any, key: Any) -> None:  # noqa: ANN401 - any TOML value
        value = node[key]
        inner = (
            next(iter(value.values() if isinstance(value, dict) else value), 0)
            if isinstance(value, (dict, list))
            else value
        )
        node[key] = random.choice([[value], {"x": value}, [value] * 3, inner, str(inner)])

    return changed(random, text, change)


def scaled(random: Random, text: str) -> bytes:
    """Change numbers only: their sign, their size, their kind."""

    def change(node: Any, key: Any) -> None:  # noqa: ANN401 - any TOML value
        value = node[key]
        if isinstance(value, (int, float)):
            node[key] = random.choice(
                [
                    -value,
                    value * 10**9,
                    value + 2,
                    float(value),
                    bool(value),
                    float("nan"),
                    float("inf"),
                    -1e-9,
                    1.0000001,
                    2**62,
                ]
            )
        elif isinstance(value, str):
            node[key] = random.choice([value * 100, value[1:], value.upper(), value + "\0", ""])

    return changed(random, text, change)


def added(random: Random, text: str) -> bytes:
    """Add keys that nobody knows, one of them often."""

    def change(node: Any, key: Any) -> None:  # noqa: ANN401 - any TOML value
        name = random.choice(["x", "", "\x1b[2J", "k" * 50_000, "a.b", "é", "modles", "\0"])
        if isinstance(node, dict):
            node[name] = values(random)
        else:
            node.insert(0, values(random))

    return changed(random, text, change)


def damaged(random: Random, text: str) -> bytes:
    """Flip, cut, repeat or insert bytes."""
    data = bytearray(text.encode())
    for _ in range(random.randint(1, 6)):
        at = random.randrange(len(data) + 1)
        what = random.randrange(5)
        if what == 0 and at < len(data):
            data[at] ^= 1 << random.randrange(8)
        elif what == 1:
            del data[at : at + random.randint(1, 20)]
        elif what == 2:
            data[at:at] = random.choice(
                [
                    b"\xff",
                    b"\x00",
                    b"\xed\xa0\x80",
                    b"\xef\xbb\xbf",
                    b"\r",
                    b"[",
                    b"{",
                    b"'''",
                    b'"',
                ]
            )
        elif what == 3:
            data[at:at] = data[: random.randint(0, 300)]
        else:
            data = data[: max(1, at)]
    return bytes(data)


def numbers(random: Random, text: str) -> bytes:
    """Write a number in a form of its own, or with thousands of digits."""
    forms = [
        *("1" * 5000, "-" + "9" * 20, "0x" + "f" * 5000, "1e400", "-1e400", "1_0", "0b" + "1" * 80),
        *("1." + "0" * 9000, "0." + "1" * 5000, "1e-9999", "nan", "-nan", "+inf", "1979-05-27"),
        *("07:32:00", "9223372036854775808", "0o7", "1" + "0" * 4299, "\u0663"),
    ]
    found = list(re.finditer(r"(?<![\w.])\d[\d._]*(?![\w.])", text))
    if not found:
        return f"{text}\nx = {random.choice(forms)}\n".encode()
    match = random.choice(found)
    return f"{text[: match.start()]}{random.choice(forms)}{text[match.end() :]}".encode()


def nested(random: Random, text: str) -> bytes:
    """Nest lists, tables or dotted keys far too deep."""
    depth = random.choice([50, 300, 1000, 5000, 50_000])
    opening, closing = random.choice([("[", "]"), ("{a=", "}"), ("[{a=", "}]")])
    deep = random.choice(
        [
            f"deep = {opening * depth}1{closing * depth}",
            f"deep = {opening * depth}",
            ".".join(["a"] * depth) + " = 1",
            "[" + ".".join(["a"] * depth) + "]",
            "[[" + " . ".join(['"a"'] * depth) + "]]",
            "\n".join(f"[{'.'.join(['b'] * min(depth, 60))}.x{i}]" for i in range(min(depth, 900))),
        ]
    )
    return random.choice([f"{deep}\n{text}", f"{text}\n{deep}\n"]).encode()


def large(random: Random, text: str) -> bytes:
    """Make a file of a megabyte or more, with valid or invalid content."""
    size = random.choice([300_000, 1_000_000, 3_000_000])
    line = random.choice(
        [
            *(
                "# comment\n",
                '"',
                "'",
                "x = 'abc'\n",
                "[[images]]\n",
                "a.b.c.d.e = 1\n",
                "\\",
                "[x]\n",
            ),
            *('"\\\\', "'''\n", " ", "k = [1, 2]\n", "x", "1", "=", "0_", "é", "\r\n"),
        ]
    )
    return (text + "\n" + line * (size // len(line))).encode()


def many(random: Random, text: str) -> bytes:
    """Repeat a table or list thousands of times with different names."""
    table = tomllib.loads(text)
    node, key = random.choice(slots(table))
    count = min(random.choice([1000, 4000]), 10**6 // len(repr(node[key])))
    if isinstance(node, dict):
        node.update({f"{key}{i}": node[key] for i in range(count)})
    else:
        node.extend([node[key]] * count)
    return tomli_w.dumps(table).encode()


KINDS: dict[str, Callable[[Random, str], bytes]] = {
    "deleted keys": deleted,
    "other values": replaced,
    "other shapes": wrapped,
    "other ranges": scaled,
    "unknown keys": added,
    "damaged bytes": damaged,
    "numbers": numbers,
    "nesting": nested,
    "large files": large,
    "many entries": many,
}
"""Kind of damage -> a function that makes one file of it."""
