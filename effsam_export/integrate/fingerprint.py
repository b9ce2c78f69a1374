"""Hash the contract of a manifest, in an encoding that every language can produce.

JSON has no canonical form (0.0 and 0, exponents, escapes), so the hash is over this encoding:

* `n`, `t`, `f` for null, true and false;
* `d` and the 16 hex digits of the IEEE 754 double for a number;
* `s`, the number of UTF-8 bytes, `:` and the bytes for a string;
* `[`, the values, `]` for an array;
* `{`, each key as a string and its value, by the keys' UTF-8 bytes, `}` for an object,

and the sha256 of those bytes is the fingerprint.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

WHOLE = ("contract_version", "preprocess", "prompts", "masks")
OF_COMPONENT = ("name", "files", "inputs", "outputs")
OF_TARGET = ("backend", "options")


def parts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a manifest that generated code depends on."""
    return {
        **{key: manifest[key] for key in WHOLE},
        "components": [{k: c[k] for k in OF_COMPONENT} for c in manifest["components"]],
        "target": {k: manifest["target"][k] for k in OF_TARGET},
    }


def fingerprint(manifest: Mapping[str, Any]) -> str:
    """Return the sha256 that generated self-tests compare."""
    return hashlib.sha256(plain(parts(manifest))).hexdigest()


def plain(value: Any) -> bytes:  # noqa: ANN401 - any JSON
    """Return the encoding of a JSON value."""
    if value is None:
        return b"n"
    if isinstance(value, bool):
        return b"t" if value else b"f"
    if isinstance(value, (int, float)):
        return b"d" + struct.pack(">d", value).hex().encode()
    if isinstance(value, str):
        text = value.encode()
        return b"s%d:%s" % (len(text), text)
    if isinstance(value, list):
        return b"[" + b"".join(plain(v) for v in value) + b"]"
    keys = sorted(value, key=str.encode)
    return b"{" + b"".join(plain(k) + plain(value[k]) for k in keys) + b"}"
