"""The stage cache: results are made once, complete, and only shared with equal inputs."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import pytest

from effsam_export.errors import OutputError
from effsam_export.pipeline import stage_cache
from effsam_export.pipeline.stage_cache import RECORD, Fallback, StageCache

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.synchronize import Event
    from pathlib import Path

PARTS = {"weights": "1" * 64}


@pytest.fixture
def stages(tmp_path: Path) -> StageCache:
    return StageCache(root=tmp_path / "stages", parts=PARTS)


def write(folder: Path) -> None:
    (folder / "encoder.onnx").write_bytes(b"graph")
    (folder / "program.pt2").write_bytes(b"program")


def never(folder: Path) -> None:
    raise AssertionError(f"made again in {folder}")


def test_a_result_is_made_once(stages: StageCache) -> None:
    folder, known = stages.get_or_make("trace", {"component": "encoder"}, write)
    assert not known
    assert (folder / "encoder.onnx").read_bytes() == b"graph"
    assert stages.get_or_make("trace", {"component": "encoder"}, never) == (folder, True)


@pytest.mark.parametrize(
    ("stage", "parts"),
    [("trace", {"component": "decoder"}), ("trace", {}), ("program", {"component": "encoder"})],
)
def test_other_parts_are_another_result(
    stages: StageCache, stage: str, parts: dict[str, str]
) -> None:
    first, _ = stages.get_or_make("trace", {"component": "encoder"}, write)
    second, known = stages.get_or_make(stage, parts, write)
    assert not known
    assert first != second


def test_other_weights_are_another_result(stages: StageCache) -> None:
    first, _ = stages.get_or_make("trace", {}, write)
    others = StageCache(root=stages.root, parts={"weights": "2" * 64})
    second, known = others.get_or_make("trace", {}, write)
    assert not known
    assert first != second


def damaged(folder: Path) -> None:
    (folder / "encoder.onnx").write_bytes(b"grapf")


def shortened(folder: Path) -> None:
    (folder / "program.pt2").unlink()


def extended(folder: Path) -> None:
    (folder / "more.onnx").write_bytes(b"")


def unlisted(folder: Path) -> None:
    (folder / RECORD).unlink()


def garbled(folder: Path) -> None:
    (folder / RECORD).write_text("[1", "utf-8")


def emptied(folder: Path) -> None:
    (folder / RECORD).write_text("[]", "utf-8")


@pytest.mark.parametrize("fault", [damaged, shortened, extended, unlisted, garbled, emptied])
def test_a_damaged_result_is_made_again(stages: StageCache, fault: object) -> None:
    folder, _ = stages.get_or_make("trace", {}, write)
    assert callable(fault)
    fault(folder)
    assert stages.get_or_make("trace", {}, write) == (folder, False)
    assert sorted(p.name for p in folder.iterdir()) == ["encoder.onnx", RECORD, "program.pt2"]
    assert stages.get_or_make("trace", {}, never) == (folder, True)


def test_a_failed_stage_leaves_no_result(stages: StageCache) -> None:
    def half(folder: Path) -> None:
        (folder / "encoder.onnx").write_bytes(b"half")
        raise RuntimeError("no such operator")

    with pytest.raises(RuntimeError, match="no such operator"):
        stages.get_or_make("trace", {}, half)
    folder, known = stages.get_or_make("trace", {}, write)
    assert not known
    assert (folder / "encoder.onnx").read_bytes() == b"graph"


def test_a_full_disk_is_one_clear_error(stages: StageCache) -> None:
    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    with pytest.raises(OutputError, match="cannot be written: no space left on device") as caught:
        stages.get_or_make("trace", {}, full)
    assert caught.value.hint is not None
    assert "--cache-dir" in caught.value.hint


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be written"):
        StageCache(root=tmp_path / "file", parts=PARTS).get_or_make("trace", {}, write)
    with pytest.raises(OutputError, match="cannot be written"):
        StageCache(root=tmp_path / "file", parts=PARTS).get_or_make("trace", {}, never)


def slowly(root: Path, started: Event, go_on: Event) -> None:
    def make(folder: Path) -> None:
        (folder / "encoder.onnx").write_bytes(b"half")
        started.set()
        go_on.wait(60)
        write(folder)

    StageCache(root=root, parts=PARTS).get_or_make("trace", {}, make)


def taken(root: Path, answer: multiprocessing.Queue[bool]) -> None:
    answer.put(StageCache(root=root, parts=PARTS).get_or_make("trace", {}, never)[1])


def test_a_second_process_waits_for_the_first(stages: StageCache) -> None:
    context = multiprocessing.get_context("spawn")
    started, go_on, answer = context.Event(), context.Event(), context.Queue()
    first = context.Process(target=slowly, args=(stages.root, started, go_on))
    first.start()
    assert started.wait(60)
    second = context.Process(target=taken, args=(stages.root, answer))
    second.start()
    second.join(2)
    assert second.is_alive()
    go_on.set()
    assert answer.get(timeout=60)
    first.join(60)
    second.join(60)
    assert (first.exitcode, second.exitcode) == (0, 0)


def test_a_killed_process_leaves_no_result(stages: StageCache) -> None:
    context = multiprocessing.get_context("spawn")
    started, go_on = context.Event(), context.Event()
    process = context.Process(target=slowly, args=(stages.root, started, go_on))
    process.start()
    assert started.wait(60)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    # Its lock went with it, and what it had written is not taken for a result.
    folder, known = stages.get_or_make("trace", {}, write)
    assert not known
    assert (folder / "encoder.onnx").read_bytes() == b"graph"
    assert list(stages.root.glob("*.partial")) == []


def tensors() -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return {
        "low_res_masks": np.arange(6, dtype=np.float32).reshape(1, 2, 3),
        "iou_predictions": np.asarray([[0.5]], dtype=np.float32),
    }


def test_outputs_are_read_back_as_written(stages: StageCache) -> None:
    answers = stages.outputs("reference", {"component": "decoder"})
    assert answers.get("q") is None
    answers.put("q", tensors())
    found = answers.get("q")
    assert found is not None
    assert list(found) == list(tensors())
    for name, array in tensors().items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert answers.get("another") is None


def test_other_stages_have_other_outputs(stages: StageCache) -> None:
    stages.outputs("reference", {"component": "decoder"}).put("q", tensors())
    assert stages.outputs("reference", {"component": "encoder"}).get("q") is None
    assert stages.outputs("source", {"component": "decoder"}).get("q") is None
    others = StageCache(root=stages.root, parts={"weights": "2" * 64})
    assert others.outputs("reference", {"component": "decoder"}).get("q") is None


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_damaged_outputs_are_none_and_are_replaced(
    stages: StageCache, content: bytes | None
) -> None:
    answers = stages.outputs("reference", {})
    answers.put("q", tensors())
    (file,) = (stages.root / "answers").iterdir()
    whole = file.read_bytes()
    # Without new contents: one bit of a tensor, which only the checksum of the zip shows.
    at = whole.index(tensors()["low_res_masks"].tobytes())
    file.write_bytes(
        whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] if content is None else content
    )
    assert answers.get("q") is None
    answers.put("q", tensors())
    assert answers.get("q") is not None


def test_outputs_that_cannot_be_written_are_one_clear_error(stages: StageCache) -> None:
    stages.root.mkdir()
    (stages.root / "answers").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot"):
        stages.outputs("reference", {}).put("q", tensors())


# ------------------------------------------------------------------ a cache that may fail


def full(*_: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def without_locks(*_: object, **__: object) -> NoReturn:
    raise NotImplementedError("the file system has no locks")


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def optional(stages: StageCache, tmp_path: Path, notes: list[str]) -> StageCache:
    """The cache as an export uses it, which works without it if it must."""
    (tmp_path / "scratch").mkdir()
    return replace(stages, fallback=Fallback(tmp_path / "scratch", notes.append))


def test_an_optional_cache_shares_results_too(
    optional: StageCache, stages: StageCache, notes: list[str]
) -> None:
    folder, known = optional.get_or_make("trace", {}, write)
    assert not known
    assert (folder / "encoder.onnx").read_bytes() == b"graph"
    assert optional.get_or_make("trace", {}, never) == stages.get_or_make("trace", {}, never)
    assert notes == []


@pytest.mark.parametrize(
    ("name", "fault", "reason"),
    [
        ("_copied", full, "no space left on device"),
        ("hashes", full, "no space left on device"),
        ("_lock", without_locks, "the file system has no locks"),
    ],
)
def test_a_fault_of_an_optional_cache_is_one_note(
    optional: StageCache,
    stages: StageCache,
    notes: list[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    fault: Callable[..., NoReturn],
    reason: str,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(stage_cache, name, fault)
        # The same result twice, as the variants of an INT8 export may have it.
        for parts in ({}, {}, {"component": "decoder"}):
            folder, known = optional.get_or_make("trace", parts, write)
            assert not known
            assert (folder / "encoder.onnx").read_bytes() == b"graph"
        optional.outputs("reference", {}).put("q", tensors())
    assert notes == [
        f"the cache `{stages.root}` cannot be written: {reason}; the export works without the cache"
    ]
    assert [p.name for p in stages.root.rglob("*") if p.suffix != ".lock"] == []


def test_outputs_that_an_optional_cache_cannot_store_are_one_note(
    optional: StageCache, notes: list[str]
) -> None:
    optional.root.mkdir()
    (optional.root / "answers").write_bytes(b"")
    outputs = optional.outputs("reference", {})
    outputs.put("q", tensors())
    outputs.put("r", tensors())
    assert outputs.get("q") is None
    assert len(notes) == 1


def test_an_error_of_a_stage_is_not_one_of_the_cache(
    optional: StageCache, notes: list[str]
) -> None:
    with pytest.raises(OSError, match="No space left"):
        optional.get_or_make("trace", {}, full)
    assert notes == []


def linked(folder: Path) -> None:
    rest = folder.with_name("rest")
    folder.rename(rest)
    folder.symlink_to(rest)
    (rest / "encoder.onnx").write_bytes(b"other")


def filed(folder: Path) -> None:
    folder.rename(folder.with_name("rest"))
    folder.write_bytes(b"")


def exchanged(folder: Path) -> None:
    """The result of other inputs, whole, under this name."""
    other, _ = StageCache(root=folder.parent, parts=PARTS).get_or_make("trace", {"a": "b"}, write)
    folder.rename(folder.with_name("rest"))
    other.rename(folder)


@pytest.mark.parametrize("fault", [linked, filed, exchanged])
def test_something_else_under_the_name_of_a_result_is_replaced(
    optional: StageCache, notes: list[str], fault: Callable[[Path], None]
) -> None:
    optional.get_or_make("trace", {}, write)
    (folder,) = (p.parent for p in optional.root.glob(f"*/{RECORD}"))
    fault(folder)
    assert not optional.get_or_make("trace", {}, write)[1]
    assert optional.get_or_make("trace", {}, never) == (folder, True)
    assert notes == []
