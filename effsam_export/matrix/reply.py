"""What a cluster worker sends back: bytes, and their check on the machine that builds.

A reply is 8 bytes with the length of a JSON header, the header, and the contents of its files. A
worker is another machine, so every field is checked before it is used.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, get_args

from effsam_export.errors import UsageError
from effsam_export.matrix.keys import Environment
from effsam_export.matrix.worker import Outcome, State
from effsam_export.util import json_text

if TYPE_CHECKING:
    from collections.abc import Mapping

MEMORY = "memory_mb"
"""Dask resource: memory of a worker, of which a running cell takes a part."""
PLUGIN = "effsam_environment"
"""Attribute of a Dask worker with the properties of its machine."""
LENGTH_BYTES = 8
MAX_BYTES = 8_000_000_000
"""Limit of a reply. The largest bundles have about 3 GB."""
MAX_HEADER_BYTES = 1_000_000
MAX_FILES = 1000
MAX_TEXT = 100_000
"""Limit of a message, in characters."""
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The reply of a worker.

    Attributes:
        bundle: The packed bundle; None if the job did not pass.
        evidence: File name -> content of the log and report of a failed cell.
    """

    outcome: Outcome
    bundle: bytes | None = None
    evidence: Mapping[str, bytes]


def encode(reply: Reply) -> bytes:
    """Return a reply as bytes."""
    files = dict(reply.evidence)
    has_bundle = reply.bundle is not None
    header = {
        "outcome": asdict(reply.outcome),
        "bundle": len(reply.bundle) if reply.bundle is not None else None,
        "evidence": [[name, len(data)] for name, data in files.items()],
    }
    text = json.dumps(header).encode()
    contents = [reply.bundle or b""] if has_bundle else []
    return b"".join([len(text).to_bytes(LENGTH_BYTES, "big"), text, *contents, *files.values()])


def decode(data: object) -> Reply:
    """Return the reply that `encode` gave these bytes for.

    Raises:
        UsageError: It is not a whole reply, or a field has a wrong type or value.
    """
    if not isinstance(data, bytes) or not LENGTH_BYTES <= len(data) <= MAX_BYTES:
        raise _bad("it is not bytes, or is too short or too long")
    begin = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "big")
    if begin > min(len(data), MAX_HEADER_BYTES):
        raise _bad("its header is longer than it")
    try:
        header = json_text.loads(data[LENGTH_BYTES:begin], max_bytes=MAX_HEADER_BYTES)
    except ValueError as error:
        raise _bad(f"its header is not JSON: {error}") from error
    if not isinstance(header, dict) or set(header) != {"outcome", "bundle", "evidence"}:
        raise _bad("its header has other fields")
    outcome = outcome_of(header["outcome"])
    size, listed = header["bundle"], header["evidence"]
    if (size is not None) != outcome.passed:
        raise _bad(f"its state is `{outcome.state}`, which its files contradict")
    if not isinstance(listed, list) or len(listed) > MAX_FILES:
        raise _bad("`evidence` is not a list of files")
    if not all(isinstance(e, list) and len(e) == 2 and _is_file_name(e[0]) for e in listed):
        raise _bad("`evidence` names a file that is none of a build")
    if len({e[0] for e in listed}) != len(listed):
        raise _bad("`evidence` names a file twice")
    sizes = [*([] if size is None else [size]), *(e[1] for e in listed)]
    if not all(type(s) is int and s >= 0 for s in sizes) or begin + sum(sizes) != len(data):
        raise _bad("the sizes of its files are not those of its contents")
    contents = []
    for length in sizes:
        contents.append(data[begin : begin + length])
        begin += length
    bundle = None if size is None else contents.pop(0)
    names = (e[0] for e in listed)
    return Reply(outcome=outcome, bundle=bundle, evidence=dict(zip(names, contents, strict=True)))


def outcome_of(document: object) -> Outcome:
    """Return a checked outcome.

    Raises:
        UsageError: A field is missing, unknown, or has a wrong type or value.
    """
    if not isinstance(document, dict) or set(document) != {f.name for f in fields(Outcome)}:
        raise _bad("its outcome has other fields")
    if document["state"] not in get_args(State):
        raise _bad("its state is unknown")
    for name in ("min_iou", "mean_iou"):
        if document[name] is not None and not _is_number(document[name], 1.0):
            raise _bad(f"`{name}` is not a number from 0 to 1")
    for name in ("seconds", "peak_mb"):
        if not _is_number(document[name], 1e12):
            raise _bad(f"`{name}` is not a number of at least 0")
    hint = document["hint"]
    if not _is_text(document["message"]) or not (hint is None or _is_text(hint)):
        raise _bad("its message or hint is not a text")
    document["message"] = _printable(document["message"])
    document["hint"] = None if hint is None else _printable(hint)
    return Outcome(**document)


def encode_environment(environment: Environment) -> bytes:
    """Return the properties of a machine as JSON."""
    return json.dumps(asdict(environment)).encode()


def decode_environment(data: object) -> Environment | None:
    """Return the properties that a worker sent; None if it sent anything else."""
    try:
        document = (
            json_text.loads(data, max_bytes=MAX_HEADER_BYTES) if isinstance(data, bytes) else {}
        )
    except ValueError:
        return None
    if not isinstance(document, dict) or set(document) != {f.name for f in fields(Environment)}:
        return None
    tools, labels = document.pop("tools"), document.pop("labels")
    if not isinstance(tools, dict) or not isinstance(labels, list):
        return None
    if not all(map(_is_text, [*document.values(), *tools.values(), *labels])):
        return None
    return Environment(**document, tools=tools, labels=tuple(labels))


def _is_number(value: object, most: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) and 0 <= value <= most


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT


def _printable(text: str) -> str:
    """Replace control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


def _is_file_name(value: object) -> bool:
    return isinstance(value, str) and FILE_NAME.fullmatch(value) is not None


def _bad(reason: str) -> UsageError:
    return UsageError(
        f"the worker's reply is refused: {reason}",
        hint="install the same effsam-export on both machines, and check who runs the worker",
    )
