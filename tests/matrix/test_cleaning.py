"""What builds keep: counted, and removed by the time since it was used last."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

from effsam_export import cli
from effsam_export.errors import OutputError
from effsam_export.matrix import cleaning
from effsam_export.matrix.store import BuildRecord, Store
from effsam_export.pipeline.stage_cache import RECORD, StageCache
from tests.bundle import fake

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.pipeline.cache_results import CachedResult

BUILT = BuildRecord(parts={"weights": "1"}, seconds=2.0, peak_mb=300.0)
DAYS = 24 * 60 * 60


@pytest.fixture
def store(tiny: None, tmp_path: Path) -> Store:
    """One bundle, one trace and one answer, all used forty days ago."""
    store = Store(tmp_path / "build")
    scratch = store.scratch("d1")
    fake.write(scratch / "bundle")
    store.add("d1", scratch, BUILT, "tiny-onnx-fp32")
    stages = stages_of(store)
    stages.get_or_make("trace", {}, trace)
    stages.outputs("reference", {}).put("q", {"masks": np.zeros(3, np.float32)})
    for path in store.root.rglob("*"):
        if path.is_file():
            aged(path, 40)
    return store


def trace(folder: Path) -> None:
    (folder / "encoder.onnx").write_bytes(b"graph")


def stages_of(store: Store) -> StageCache:
    return StageCache(root=store.stages, parts={"weights": "1"})


def aged(path: Path, days: float) -> None:
    then = time.time() - days * DAYS
    os.utime(path, (then, then))


def kinds(found: list[CachedResult]) -> list[str]:
    return sorted(k.kind for k in found)


def test_everything_is_counted_with_its_size(store: Store) -> None:
    found = {k.kind: k for k in cleaning.cached_results(store.root)}
    assert sorted(found) == ["bundles", "outputs", "stages"]
    folder = store.root / "bundles" / "d1"
    assert found["bundles"].bytes == sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    made = found["stages"].path
    assert found["stages"].bytes == len(b"graph") + (made / RECORD).stat().st_size
    for each in found.values():
        assert each.unused_s == pytest.approx(40 * DAYS, abs=600)


def test_unused_results_are_removed(store: Store) -> None:
    assert cleaning.remove_unused(store.root, 41) == []
    assert kinds(cleaning.cached_results(store.root)) == ["bundles", "outputs", "stages"]
    assert kinds(cleaning.remove_unused(store.root, 39)) == ["bundles", "outputs", "stages"]
    assert cleaning.cached_results(store.root) == []
    assert store.find("d1") is None
    assert list((store.root / "work").iterdir()) == []
    # What the cell was is still known: the next build can say why it converts.
    assert store.last_record("tiny-onnx-fp32") == BUILT


def use_bundle(store: Store) -> None:
    assert store.find("d1") is not None


def use_trace(store: Store) -> None:
    def never(folder: Path) -> None:
        raise AssertionError(f"made again in {folder}")

    assert stages_of(store).get_or_make("trace", {}, never)[1]


def use_output(store: Store) -> None:
    assert stages_of(store).outputs("reference", {}).get("q") is not None


@pytest.mark.parametrize(
    ("use", "stays"),
    [(use_bundle, "bundles"), (use_trace, "stages"), (use_output, "outputs")],
)
def test_used_results_are_kept(store: Store, use: Any, stays: str) -> None:  # noqa: ANN401
    use(store)
    cleaning.remove_unused(store.root, 1)
    assert kinds(cleaning.cached_results(store.root)) == [stays]
    use(store)


def test_nothing_is_removed_from_under_a_build(store: Store, tmp_path: Path) -> None:
    in_use = "an export or a build is using"
    with store.in_use(tmp_path / "dist"), pytest.raises(OutputError, match=in_use):
        cleaning.remove_unused(store.root, 0)
    assert kinds(cleaning.cached_results(store.root)) == ["bundles", "outputs", "stages"]


def test_files_of_a_killed_removal_are_removed(store: Store, tmp_path: Path) -> None:
    left = store.root / "work" / "removed-d2"
    left.mkdir()
    (left / "built.json").write_bytes(b"{}")
    assert kinds(cleaning.cached_results(store.root)) == ["bundles", "outputs", "stages"]
    with store.in_use(tmp_path / "dist"):
        assert not left.exists()


def test_half_a_result_is_not_counted(store: Store) -> None:
    (store.root / "bundles" / "d1" / "built.json").unlink()
    next(store.stages.glob(f"*/{RECORD}")).unlink()
    assert kinds(cleaning.cached_results(store.root)) == ["outputs"]


def test_a_cache_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert cleaning.cached_results(tmp_path / "none") == []
    assert cleaning.remove_unused(tmp_path / "none", 0) == []
    assert not (tmp_path / "none").exists()


def cache(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["cache", *arguments])
    return result.exit_code, result.stdout


def test_the_command_shows_and_removes(store: Store) -> None:
    place = ["--cache-dir", str(store.root.parent)]
    code, said = cache(*place, "--json")
    shown = json.loads(said)
    assert code == 0
    assert {k: v["results"] for k, v in shown["kept"].items()} == {
        "bundles": 1,
        "stages": 1,
        "outputs": 1,
        "searches": 0,
        "evaluations": 0,
    }
    assert "removed" not in shown
    code, said = cache(*place, "--remove-unused", "30", "--json")
    assert code == 0
    assert json.loads(said)["removed"] == shown["kept"]
    assert all(v == {"results": 0, "bytes": 0} for v in json.loads(said)["kept"].values())


def test_the_command_prints_a_table(store: Store) -> None:
    code, said = cache("--cache-dir", str(store.root.parent), "--remove-unused", "41")
    assert code == 0
    assert said.splitlines()[0] == str(store.root.parent)
    assert [line.split() for line in said.splitlines()[2:]][1:] == [
        ["checkpoints", "0", "0.0", "0", "0.0"],
        ["bundles", "1", "0.0", "0", "0.0"],
        ["stages", "1", "0.0", "0", "0.0"],
        ["outputs", "1", "0.0", "0", "0.0"],
        ["searches", "0", "0.0", "0", "0.0"],
        ["evaluations", "0", "0.0", "0", "0.0"],
    ]


def test_days_are_not_negative() -> None:
    assert cache("--remove-unused", "-1")[0] == 2
