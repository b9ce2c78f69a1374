"""`build --plan` says what a build would do: it writes nothing and downloads nothing."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest

from effsam_export import cli, models
from effsam_export.matrix import run
from effsam_export.matrix.config import load
from effsam_export.matrix.run import Limits
from effsam_export.matrix.store import BuildRecord, Store
from effsam_export.spec.stages import Checkpoint
from effsam_export.weights import acquire, fetch, lock
from effsam_export.weights.acquire import require_published
from tests.bundle import fake

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FILE = 'models = ["mobile-sam", "efficient-sam-s"]\ntargets = ["onnx"]\nprecisions = ["fp32"]\n'
RESTRICTED = 'models = ["edge-sam"]\ntargets = ["onnx"]\nprecisions = ["fp32"]\n'
PINNED = require_published(models.get("mobile-sam"))
UNPINNED = require_published(models.get("efficient-sam-s"))


@pytest.fixture
def plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Plan a build with an empty cache; returns its exit code and output."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a plan downloads nothing")

    monkeypatch.setattr(fetch, "fetch", never)
    monkeypatch.setenv("EFFSAM_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "effsam.toml").write_text(FILE, "utf-8")

    def planned(*more: str) -> tuple[int, str, str]:
        before = sorted(tmp_path.rglob("*"))
        arguments = ["effsam", "build", str(tmp_path / "effsam.toml"), "--plan", *more]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert sorted(tmp_path.rglob("*")) == before
        return int(end.value.code or 0), *capsys.readouterr()

    return planned


def test_weights_that_are_not_here(plan: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = plan("--json", "--quiet")
    assert code == 0
    found: dict[str, Any] = json.loads(out)
    assert found["downloads"] == [
        {"model": "mobile-sam", "file": PINNED.file_name, "bytes": PINNED.size},
        {"model": "efficient-sam-s", "file": UNPINNED.file_name, "bytes": UNPINNED.size},
    ]
    first, second = found["cells"]
    assert (first["cached"], second["cached"]) == (False, False)
    assert first["reasons"] == second["reasons"] == ["it was never built"]
    assert len(first["digest"]) == 64
    # Nobody knows the hash of this one before the download.
    assert second["digest"] is None
    assert len(found["matrix"]["include"]) == 2


def test_the_table_names_the_downloads(plan: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = plan()
    assert code == 0
    assert "mobile-sam-onnx-fp32" in out
    assert PINNED.size is not None
    megabytes = f"{PINNED.size / 1e6:.1f} MB"
    assert f"note: the build downloads {PINNED.file_name} of mobile-sam, {megabytes}" in err


def test_a_consent_is_checked_and_not_stored(
    plan: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    (tmp_path / "effsam.toml").write_text(RESTRICTED, "utf-8")
    code, _, err = plan()
    assert code == 2
    assert "needs your consent" in err
    assert plan("--accept-license")[0] == 0


def test_the_plan_has_the_cache_key_of_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build after the download takes the bundle that a plan before it would have named."""
    (tmp_path / "effsam.toml").write_text(FILE, "utf-8")
    build = load(tmp_path / "effsam.toml")
    store = Store(tmp_path / "store", read_only=True)
    cache = tmp_path / "cache"

    def digests() -> list[str]:
        found = {
            name: acquire.expected(models.get(name), cache_dir=cache)[0]
            for name in ("mobile-sam", "efficient-sam-s")
        }
        return [p.digest for p in run.plan(build, found, store, Limits(memory_mb=1e9))]

    before = digests()
    here = {
        PINNED.file_name: Checkpoint(
            path=tmp_path / PINNED.file_name, sha256=str(PINNED.sha256), official=True
        ),
        UNPINNED.file_name: Checkpoint(
            path=tmp_path / UNPINNED.file_name, sha256="5" * 64, official=False
        ),
    }
    monkeypatch.setattr(fetch, "cached", lambda weights, **_: here[weights.file_name])
    after = digests()
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_a_hash_of_an_earlier_download_is_expected(tmp_path: Path) -> None:
    model = models.get("efficient-sam-s")
    lock.trust(UNPINNED, "5" * 64, 10, model.name, tmp_path)
    found, missing = acquire.expected(model, cache_dir=tmp_path)
    assert (found.sha256, missing) == ("5" * 64, True)


def test_a_read_only_store_changes_nothing(tmp_path: Path, tiny: None) -> None:
    store = Store(tmp_path / "store")
    scratch = store.scratch("d1")
    fake.write(scratch / "bundle")
    built = BuildRecord(parts={"weights": "1"}, seconds=2.0, peak_mb=300.0)
    bundle = store.add("d1", scratch, built, "tiny-onnx-fp32")
    record = bundle.with_name("built.json")
    used = record.stat().st_mtime_ns
    only_read = Store(store.root, read_only=True)
    assert only_read.find("d1") == (bundle, built)
    assert record.stat().st_mtime_ns == used
    (bundle / "encoder.onnx").write_bytes(b"changed")
    assert only_read.find("d1") is None
    assert bundle.is_dir()
    shutil.rmtree(store.root)
    assert Store(store.root, read_only=True).find("d1") is None
    assert not store.root.exists()
