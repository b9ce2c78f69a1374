"""The store: a bundle is there whole or not at all, whoever else is at work."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from effsam_export.bundle import staging
from effsam_export.errors import OutputError
from effsam_export.matrix.store import BuildRecord, Store, deliver
from tests.bundle import fake

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event
    from pathlib import Path

BUILT = BuildRecord(parts={"weights": "1"}, seconds=2.0, peak_mb=300.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def fake_tiny(tiny: None) -> None:
    """The model of the fake bundle is known."""


def kept(store: Store, digest: str = "d1", cell: str = "tiny-onnx-fp32") -> Path:
    scratch = store.scratch(digest)
    fake.write(scratch / "bundle")
    return store.add(digest, scratch, BUILT, cell)


def test_a_stored_bundle_is_returned(store: Store) -> None:
    assert store.find("d1") is None
    bundle = kept(store)
    assert store.find("d1") == (bundle, BUILT)
    assert store.find("d2") is None
    assert store.last_record("tiny-onnx-fp32") == BUILT
    assert store.last_record("another") is None
    assert list((store.root / "work").iterdir()) == []


def test_a_bundle_that_somebody_changed_is_built_again(store: Store) -> None:
    bundle = kept(store)
    (bundle / "encoder.onnx").write_bytes(b"changed")
    assert store.find("d1") is None
    assert not bundle.exists()
    # What it followed from is still known.
    assert store.last_record("tiny-onnx-fp32") == BUILT


@pytest.mark.parametrize("left", ["bundle/manifest.json", "built.json"])
def test_half_a_bundle_is_none(store: Store, left: str) -> None:
    bundle = kept(store)
    (bundle.parent / left).unlink()
    assert store.find("d1") is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"parts": {}}'])
def test_a_broken_record_is_none(store: Store, content: str) -> None:
    bundle = kept(store)
    (bundle.parent / "built.json").write_text(content)
    assert store.find("d1") is None
    (store.root / "cells" / "tiny-onnx-fp32.json").write_text(content)
    assert store.last_record("tiny-onnx-fp32") is None


def test_two_builds_of_the_same_bundle(store: Store) -> None:
    first = kept(store)
    assert kept(store) == first
    assert store.find("d1") is not None


def test_a_bundle_that_cannot_be_moved_in(store: Store) -> None:
    bundles = store.root / "bundles"
    bundles.mkdir(parents=True, exist_ok=True)
    bundles.rmdir()
    bundles.write_text("a file where the folder belongs")
    with pytest.raises(OutputError, match="cannot be written: not a directory"):
        kept(store)


def test_files_of_a_dead_process_are_removed(store: Store, tmp_path: Path) -> None:
    left = store.root / "work" / "1-d9"
    (left / "bundle").mkdir(parents=True)
    (store.stages / "d8.partial").mkdir(parents=True)
    half = tmp_path / "dist" / ".tiny.a1.partial"
    half.mkdir(parents=True)
    with store.in_use(tmp_path / "dist"):
        assert not left.exists()
        assert not (store.stages / "d8.partial").exists()
        # Not made by this package.
        assert half.exists()


def hold(root: Path, entered: Event, leave: Event) -> None:
    from effsam_export.pipeline.stage_cache import StageCache

    store = Store(root)

    def make(folder: Path) -> None:
        (folder / "half").write_text("")
        entered.set()
        leave.wait(30)

    with store.in_use(root.parent / "dist"), staging.staged(root.parent / "dist" / "tiny [1]"):
        store.scratch("d7")
        StageCache(root=store.stages, parts={}).get_or_make("trace", {}, make)
        # Killed in effect: nothing is removed.
        os._exit(0)


def test_files_of_a_running_build_are_kept(store: Store, tmp_path: Path) -> None:
    dist = tmp_path / "dist"
    context = multiprocessing.get_context("spawn")
    entered, leave = context.Event(), context.Event()
    other = context.Process(target=hold, args=(store.root, entered, leave))
    other.start()
    try:
        assert entered.wait(60)
        with store.in_use(dist):
            assert [p.name.partition("-")[2] for p in (store.root / "work").iterdir()] == ["d7"]
            assert len(list(store.stages.glob("*.partial/half"))) == 1
            assert len(list(dist.iterdir())) == 1
    finally:
        leave.set()
        other.join()
    with store.in_use(dist):
        assert list((store.root / "work").iterdir()) == []
        assert list(dist.iterdir()) == []


def test_an_output_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        Store(tmp_path / "file" / "store")


# ------------------------------------------------------------------ where it is wanted


def test_an_equal_bundle_is_not_touched(store: Store, tmp_path: Path) -> None:
    bundle = kept(store)
    place = tmp_path / "dist" / "tiny"
    deliver(bundle, place)
    before = (place / "manifest.json").stat().st_ino
    deliver(bundle, place)
    assert (place / "manifest.json").stat().st_ino == before
    (place / "README.md").write_text("changed")
    deliver(bundle, place)
    assert (place / "README.md").read_bytes() == (bundle / "README.md").read_bytes()


def test_the_copy_is_not_the_stores(store: Store, tmp_path: Path) -> None:
    bundle = kept(store)
    deliver(bundle, tmp_path / "out")
    (tmp_path / "out" / "encoder.onnx").write_bytes(b"mine now")
    assert store.find("d1") is not None


def test_a_disk_that_is_full(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    bundle = kept(store)
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OutputError) as caught:
        deliver(bundle, tmp_path / "out")
    # One reason, and not one for each file.
    assert caught.value.message == (
        f"`{tmp_path / 'out'}` cannot be written: no space left on device"
    )
    assert not list(tmp_path.glob("*out*"))


def test_a_folder_that_is_not_a_bundle_is_never_replaced(store: Store, tmp_path: Path) -> None:
    place = tmp_path / "out"
    place.mkdir()
    (place / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not a bundle"):
        deliver(kept(store), place)
    assert (place / "mine.txt").read_text() == "mine"
