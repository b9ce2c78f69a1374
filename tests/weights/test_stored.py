"""`effsam cache` lists the downloaded checkpoints, and of which models they are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from typer.testing import CliRunner

from effsam_export import cli
from effsam_export.spec.model import WeightFile
from effsam_export.weights.fetch import slot_of
from effsam_export.weights.stored import stored_files

if TYPE_CHECKING:
    from pathlib import Path

PINNED = WeightFile(file_name="a.pt", sha256="0123456789ab" + "0" * 52, size=3, sources=())
UNPINNED = WeightFile(file_name="b.pt", sha256=None, size=None, sources=())


def put(cache: Path, weights: WeightFile, content: bytes, suffix: str = "") -> Path:
    """Put a file where a download does."""
    path = slot_of(weights, cache) / f"{weights.file_name}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_files_have_their_models(tmp_path: Path) -> None:
    first = put(tmp_path, PINNED, b"abc")
    begun = put(tmp_path, PINNED, b"a", ".12345678.partial")
    second = put(tmp_path, UNPINNED, b"abcd")
    (first.parent / ".lock").write_bytes(b"")
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "c.pt").write_bytes(b"not a download")
    (tmp_path / "accepted-licences.json").write_text("{}")
    found = stored_files(tmp_path, {"one": PINNED, "same": PINNED, "two": UNPINNED, "three": None})
    assert [(f.path, f.bytes, f.models, f.complete) for f in found] == [
        (first, 3, ("one", "same"), True),
        (begun, 1, (), False),
        (second, 4, ("two",), True),
    ]


def test_a_cache_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    assert stored_files(tmp_path / "none", {"one": PINNED}) == []


def test_the_command_lists_them(tmp_path: Path) -> None:
    path = put(tmp_path, PINNED, b"abc")
    run = CliRunner()
    shown = json.loads(
        run.invoke(cli.app, ["cache", "--cache-dir", str(tmp_path), "--json"]).stdout
    )
    assert shown["checkpoints"] == [{"path": str(path), "bytes": 3, "models": [], "complete": True}]
    text = run.invoke(cli.app, ["cache", "--cache-dir", str(tmp_path)]).stdout
    assert text.splitlines()[3].split() == ["checkpoints", "1", "0.0"]
    assert text.splitlines()[-1].split() == ["0123456789ab/a.pt", "0.0", "-"]
