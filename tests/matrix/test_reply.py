"""Replies of cluster workers: equal after the way, and one error for each that is not valid."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from effsam_export.errors import UsageError
from effsam_export.matrix.keys import this_environment
from effsam_export.matrix.reply import (
    Reply,
    decode,
    decode_environment,
    encode,
    encode_environment,
)
from effsam_export.matrix.worker import Outcome
from tests.matrix.hostile_replies import KINDS, honest, with_header

if TYPE_CHECKING:
    from collections.abc import Callable

REPLIES = [
    Reply(outcome=Outcome(state="verified", min_iou=0.9), bundle=b"zip", evidence={}),
    Reply(outcome=Outcome(state="simulated"), bundle=b"", evidence={"log.txt": b""}),
    Reply(outcome=Outcome(state="failed", message="é", hint="h"), evidence={"a": b"1", "b": b""}),
]


@pytest.mark.parametrize("reply", REPLIES, ids=["verified", "simulated", "failed"])
def test_a_reply_returns_from_its_bytes(reply: Reply) -> None:
    assert decode(encode(reply)) == reply


def outcome(data: bytes) -> str:
    """Decode a reply, and return its error's message, or nothing."""
    try:
        reply = decode(data)
    except UsageError as error:
        return error.message
    assert not any("/" in name for name in reply.evidence)
    return ""


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_reply_is_read_or_refused(kind: str) -> None:
    messages = [outcome(KINDS[kind](Random(f"{kind}-{seed}"))) for seed in range(200)]
    refused = [m for m in messages if m]
    assert len(refused) > 100
    assert all(m.startswith("the worker's reply is refused: ") for m in refused)


@pytest.mark.parametrize("data", [None, {}, "text", REPLIES[0], Outcome(state="verified")])
def test_objects_are_refused(data: object) -> None:
    with pytest.raises(UsageError, match="it is not bytes"):
        decode(data)


def header() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(honest()[8:].split(b"log{}")[0])
    return found


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda h: h["outcome"].update(state="done"), "its state is unknown"),
        (lambda h: h["outcome"].update(state="verified"), "which its files contradict"),
        (lambda h: h["outcome"].update(min_iou=1.5), "`min_iou` is not a number from 0 to 1"),
        (lambda h: h["outcome"].update(seconds=True), "`seconds` is not a number"),
        (lambda h: h["outcome"].update(message=3), "its message or hint is not a text"),
        (lambda h: h["outcome"].update(hint=[]), "its message or hint is not a text"),
        (lambda h: h["outcome"].pop("hint"), "its outcome has other fields"),
        (lambda h: h.update(more=1), "its header has other fields"),
        (lambda h: h.update(evidence=[["../x", 3], ["y", 2]]), "names a file that is none"),
        (lambda h: h.update(evidence=[["x", 3], ["x", 2]]), "names a file twice"),
        (lambda h: h.update(evidence=[["x", 6], ["y", -1]]), "the sizes of its files"),
        (lambda h: h.update(evidence=[["x", 5], ["y", 2]]), "the sizes of its files"),
    ],
    ids=range(12),
)
def test_a_lie_is_named(change: Callable[[dict[str, Any]], object], problem: str) -> None:
    document = header()
    assert decode(with_header(document, b"log{}")) == decode(honest())
    change(document)
    with pytest.raises(UsageError, match=problem):
        decode(with_header(document, b"log{}"))


def test_control_characters_of_a_message_are_replaced() -> None:
    reply = Reply(outcome=Outcome(state="failed", message="a\x1b[2Jb\nc"), evidence={})
    assert decode(encode(reply)).outcome.message == "a?[2Jb\nc"


def test_an_environment_returns_from_its_bytes() -> None:
    here = this_environment(("mini",))
    assert decode_environment(encode_environment(here)) == here


def test_an_environment_of_other_fields_is_none() -> None:
    document = json.loads(encode_environment(this_environment()))
    changes: list[dict[str, object]] = [{"tools": []}, {"labels": "x"}, {"version": 3}, {"more": 1}]
    changes += [{"tools": {"onnx": 3}}, {"labels": [None]}]
    for change in changes:
        assert decode_environment(json.dumps({**document, **change}).encode()) is None
    for data in (None, b"", b"[]", ValueError("x"), b"\xff", document):
        assert decode_environment(data) is None
