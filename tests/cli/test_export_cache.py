"""`effsam export` and the user's cache: used by default, shown, cleared, and left alone."""

from __future__ import annotations

import json
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
    assert results() == {"bundles": 0, "stages": 2, "outputs": 6}
    assert export().err.count(CACHED) == 2
    assert results("--remove-unused", "0") == {"bundles": 0, "stages": 0, "outputs": 0}
