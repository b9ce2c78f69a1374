"""`effsam export` and the user's cache: used by default, shown, cleared, and left alone."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from tests.small import SMALL_SAM

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from effsam_export.spec.stages import Checkpoint
    from tests.cli.conftest import Ended

pytestmark = pytest.mark.backend
CACHED = "from the cache"


def test_an_export_uses_the_users_cache_unless_it_is_told_not_to(
    command: Callable[..., Ended],
    monkeypatch: pytest.MonkeyPatch,
    small: None,
    small_checkpoint: Checkpoint,
    parity_file: Path,
    tmp_path: Path,
) -> None:
    cache = tmp_path / "cache"

    def export(*more: str) -> Ended:
        given = ["--checkpoint", small_checkpoint.path, "--parity", parity_file]
        ended = command(
            "export", SMALL_SAM.name, "-t", "onnx", "-c", "encoder", "-f", *given, *more
        )
        assert ended.code == 0, ended.err
        return ended

    def results(*more: str) -> dict[str, int]:
        shown = json.loads(command("cache", "--json", *more).out)["kept"]
        return {kind: total["results"] for kind, total in shown.items()}

    # By default, in the folder that `effsam cache` shows.
    monkeypatch.setenv("EFFSAM_CACHE_DIR", str(cache))
    monkeypatch.delenv("EFFSAM_NO_CACHE")
    assert CACHED not in export("--no-cache").err
    assert not cache.exists()
    assert CACHED not in export().err
    none = dict.fromkeys(("bundles", "stages", "outputs", "searches", "evaluations"), 0)
    assert results() == {**none, "stages": 2, "outputs": 6}
    assert export().err.count(CACHED) == 2
    assert results("--remove-unused", "0") == none


def test_records_of_searches_and_evaluations_are_shown_and_removed(
    command: Callable[..., Ended], tmp_path: Path
) -> None:
    files = [tmp_path / "int8" / "a.json", tmp_path / "evaluations" / "b.jsonl"]
    for file in files:
        file.parent.mkdir()
        file.write_text("{}\n", "utf-8")
        two_days_ago = file.stat().st_mtime - 2 * 24 * 60 * 60
        os.utime(file, (two_days_ago, two_days_ago))

    def kept(*more: object) -> list[dict[str, int]]:
        found = json.loads(command("cache", "--json", "--cache-dir", tmp_path, *more).out)["kept"]
        return [found[kind] for kind in ("searches", "evaluations")]

    assert kept("--remove-unused", 3) == [{"results": 1, "bytes": 3}] * 2
    assert kept("--remove-unused", 1) == [{"results": 0, "bytes": 0}] * 2
    assert not any(file.exists() for file in files)
