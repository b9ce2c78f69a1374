"""Builds with workers that only pretend: what is done, in which order, and what not again."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from effsam_export.errors import OutputError
from effsam_export.matrix import config, run
from effsam_export.matrix.run import Event, Limits, PlannedCell, Result
from effsam_export.matrix.store import Store
from effsam_export.matrix.worker import LOG, Job, Outcome
from effsam_export.spec.stages import Checkpoint
from effsam_export.util import installed
from tests.bundle import fake

if TYPE_CHECKING:
    from collections.abc import Callable

FILE = """
models = ["mobile-sam", "edge-sam"]
targets = ["onnx", "openvino"]
precisions = ["fp32", "fp16"]
"""
AMPLE = Limits(memory_mb=1e9)


class Workshop:
    """Builds in a folder, and which jobs its workers got."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "effsam.toml"
        self.file.write_text(FILE, "utf-8")
        self.store = Store(folder / "store")
        self.weights = {"mobile-sam": "1" * 64, "edge-sam": "2" * 64}
        self.jobs: list[str] = []
        self.failing: dict[str, Outcome] = {}
        self.events: list[Event] = []
        self._lock = threading.Lock()

    def execute(self, job: Job, scratch: Path) -> Outcome:
        name = f"{job.model}-{Path(job.target).stem}-{job.precision}"
        with self._lock:
            self.jobs.append(name)
        (scratch / LOG).write_text(f"log of {name}\n")
        if name in self.failing:
            return self.failing[name]
        fake.write(scratch / "bundle")
        return Outcome(state="verified", min_iou=0.99, mean_iou=0.995, seconds=1, peak_mb=500)

    def plan(self, limits: Limits = AMPLE) -> list[PlannedCell]:
        asked = config.load(self.file)
        checkpoints = {
            m: Checkpoint(path=Path(f"{m}.pt"), sha256=h, official=True)
            for m, h in self.weights.items()
        }
        return run.plan(asked, checkpoints, self.store, limits)

    def build(
        self,
        limits: Limits = AMPLE,
        execute: Callable[[Job, Path], Outcome] | None = None,
    ) -> dict[str, Result]:
        self.jobs.clear()
        self.events.clear()
        results = run.run(
            self.plan(limits),
            self.store,
            self.folder / "dist",
            limits,
            self.events.append,
            execute or self.execute,
        )
        return {r.cell.name: r for r in results}


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


CELLS = [
    f"{m}-{t}-{p}"
    for m in ("mobile-sam", "edge-sam")
    for t in ("onnx", "openvino")
    for p in ("fp32", "fp16")
]


def test_every_cell_gets_its_bundle(shop: Workshop) -> None:
    results = shop.build()
    assert list(results) == shop.jobs == CELLS
    for name, result in results.items():
        assert result.outcome.passed
        assert not result.cached
        assert result.reasons == ("it was never built",)
        assert result.output == shop.folder / "dist" / name
        assert (shop.folder / "dist" / name / "manifest.json").is_file()
    assert [(e.kind, e.cell.name) for e in shop.events[:3]] == [
        ("started", CELLS[0]),
        ("done", CELLS[0]),
        ("started", CELLS[1]),
    ]
    assert list((shop.store.root / "work").iterdir()) == []


def test_nothing_is_converted_twice(shop: Workshop) -> None:
    shop.build()
    results = shop.build()
    assert shop.jobs == []
    assert all(r.cached and r.outcome.state == "verified" for r in results.values())
    assert [e.kind for e in shop.events] == ["done"] * 8


def test_another_output_folder_is_filled_from_the_store(shop: Workshop) -> None:
    shop.build()
    run.run(shop.plan(), shop.store, shop.folder / "other", Limits(), shop.events.append)
    assert sorted(p.name for p in (shop.folder / "other").iterdir()) == sorted(CELLS)


# ------------------------------------------------------------------ what a change invalidates


def test_other_weights_concern_their_model(shop: Workshop) -> None:
    shop.build()
    shop.weights["edge-sam"] = "3" * 64
    results = shop.build()
    assert shop.jobs == [c for c in CELLS if c.startswith("edge-sam")]
    assert results["edge-sam-onnx-fp32"].reasons == (f"weights {'2' * 12} -> {'3' * 12}",)


def test_an_option_concerns_its_target(shop: Workshop) -> None:
    shop.build()
    shop.file.write_text(FILE + '[options.openvino]\ndevice = "GPU"\n', "utf-8")
    results = shop.build()
    assert shop.jobs == [c for c in CELLS if "openvino" in c]
    (why,) = results["mobile-sam-openvino-fp32"].reasons
    assert why.startswith("target.options ")


def test_a_tools_version_concerns_those_that_use_it(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.build()
    real = installed.version_of
    monkeypatch.setattr(
        installed, "version_of", lambda name: "99" if name == "openvino" else real(name)
    )
    shop.build()
    assert shop.jobs == [c for c in CELLS if "openvino" in c]


def test_a_cell_with_its_earlier_inputs_is_still_cached(shop: Workshop) -> None:
    shop.build()
    shop.weights["edge-sam"] = "3" * 64
    shop.build()
    shop.weights["edge-sam"] = "2" * 64
    shop.build()
    assert shop.jobs == []


def test_a_plan_converts_nothing_and_gives_reasons(shop: Workshop) -> None:
    shop.build()
    shop.weights["edge-sam"] = "3" * 64
    shop.jobs.clear()
    planned = shop.plan()
    assert shop.jobs == []
    assert [p.cell.name for p in planned if p.bundle is None] == CELLS[4:]
    assert all(bool(p.reasons) == (p.bundle is None) for p in planned)


# ------------------------------------------------------------------ what goes wrong


def test_a_cell_that_fails_does_not_stop_the_others(shop: Workshop) -> None:
    shop.failing[CELLS[2]] = Outcome(state="failed", message="mask 1 has IoU 0.5, want 0.99")
    results = shop.build()
    assert shop.jobs == CELLS
    bad = results[CELLS[2]]
    assert (bad.outcome.state, bad.output) == ("failed", None)
    assert not (shop.folder / "dist" / CELLS[2]).exists()
    assert bad.evidence == shop.folder / "dist" / f"{CELLS[2]}.failed"
    assert (bad.evidence / "log.txt").read_text() == f"log of {CELLS[2]}\n"
    assert sum(r.outcome.passed for r in results.values()) == 7
    # It is tried again, and when it holds its evidence goes.
    shop.failing.clear()
    assert shop.build()[CELLS[2]].outcome.passed
    assert shop.jobs == [CELLS[2]]
    assert not bad.evidence.exists()


def test_a_bundle_that_was_there_stays_when_its_cell_fails(shop: Workshop) -> None:
    shop.build()
    before = (shop.folder / "dist" / CELLS[0] / "manifest.json").read_bytes()
    shop.weights["mobile-sam"] = "4" * 64
    shop.failing[CELLS[0]] = Outcome(state="failed", message="no")
    shop.build()
    assert (shop.folder / "dist" / CELLS[0] / "manifest.json").read_bytes() == before


def test_an_unfinished_bundle_of_a_worker_is_refused(shop: Workshop) -> None:
    def liar(job: Job, scratch: Path) -> Outcome:
        # Says it is done, and wrote half of it.
        fake.write(scratch / "bundle")
        (scratch / "bundle" / "encoder.onnx").write_bytes(b"")
        (scratch / LOG).write_text("")
        return Outcome(state="verified")

    results = shop.build(execute=liar)
    assert all("is not intact" in r.outcome.message for r in results.values())
    assert all(p.bundle is None for p in shop.plan())
    assert not (shop.folder / "dist").exists()


def test_a_build_that_is_stopped_goes_on_where_it_was(shop: Workshop) -> None:
    def stopped(job: Job, scratch: Path) -> Outcome:
        if len(shop.jobs) == 3:
            raise KeyboardInterrupt
        return shop.execute(job, scratch)

    with pytest.raises(KeyboardInterrupt):
        shop.build(execute=stopped)
    assert list((shop.store.root / "work").iterdir()) == []
    shop.build()
    assert shop.jobs == CELLS[3:]


def test_a_full_disk_is_the_result_of_its_cell(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shop.store.add
    full = iter([True])

    def keep(*args: object) -> Path:
        if next(full, False):
            raise OutputError("`store` cannot be written: no space left on device")
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(shop.store, "add", keep)
    results = shop.build()
    assert results[CELLS[0]].outcome.message.endswith("no space left on device")
    assert sum(r.outcome.passed for r in results.values()) == 7
    assert list((shop.store.root / "work").iterdir()) == []


def test_an_output_path_that_exists_fails_only_its_cell(shop: Workshop) -> None:
    taken = shop.folder / "dist" / CELLS[1]
    taken.mkdir(parents=True)
    (taken / "mine.txt").write_text("mine")
    results = shop.build()
    assert "is not a bundle" in results[CELLS[1]].outcome.message
    assert (taken / "mine.txt").read_text() == "mine"


# ------------------------------------------------------------------ how many at once


def most_at_once(shop: Workshop, limits: Limits) -> int:
    active, most = 0, 0
    lock = threading.Lock()

    def slow(job: Job, scratch: Path) -> Outcome:
        nonlocal active, most
        with lock:
            active += 1
            most = max(most, active)
        time.sleep(0.05)
        with lock:
            active -= 1
        return shop.execute(job, scratch)

    shop.build(limits, slow)
    return most


def test_as_many_as_asked(shop: Workshop) -> None:
    assert most_at_once(shop, Limits(jobs=3, memory_mb=1e9)) == 3


def test_no_more_than_memory_allows(shop: Workshop) -> None:
    assert most_at_once(shop, Limits(jobs=8, memory_mb=2.5 * run.UNKNOWN_MB)) == 2


def test_one_alone_always_runs(shop: Workshop) -> None:
    assert most_at_once(shop, Limits(jobs=8, memory_mb=1.0)) == 1
    assert len(shop.jobs) == 8


def test_the_peak_of_the_last_build_is_the_expected_memory(shop: Workshop) -> None:
    shop.build()
    shop.weights["mobile-sam"] = "5" * 64
    assert {p.job.needs_mb for p in shop.plan() if p.bundle is None} == {500.0}
    # Four cells of 500 MB, and room for three.
    assert most_at_once(shop, Limits(jobs=8, memory_mb=1600)) == 3


def test_a_small_cell_goes_ahead_of_one_that_has_no_room(shop: Workshop) -> None:
    small, large = shop.plan()[:2]
    small, large, other = (
        replace(p, job=replace(p.job, needs_mb=n))
        for p, n in ((small, 100), (large, 900), (small, 500))
    )
    busy = [other]
    limits = Limits(jobs=2, memory_mb=1000)
    assert run.next_runnable([large, small], busy, limits) == small
    assert run.next_runnable([large, small], [], limits) == large
    assert run.next_runnable([large], busy, limits) is None


def test_a_cell_does_not_wait_for_a_stage_while_another_could_run(shop: Workshop) -> None:
    plan = {entry.cell.name: entry for entry in shop.plan(AMPLE)}
    first, same, other = (
        plan[name]
        for name in ("mobile-sam-onnx-fp32", "mobile-sam-onnx-fp16", "edge-sam-onnx-fp32")
    )
    limits = Limits(jobs=2, memory_mb=1e9)
    assert run.next_runnable([same, other], [first], limits) == other
    assert run.next_runnable([same], [first], limits) == same
    assert run.next_runnable([same, other], [], limits) == same
    quantized = replace(same, job=replace(same.job, precision="int8"))
    assert run.next_runnable([same, quantized], [first], limits) == quantized
    assert run.next_runnable([quantized, same], [quantized], limits) == same


def test_free_memory_is_a_number() -> None:
    assert 100 < run.free_memory_mb() < 1e9


def test_cores_are_shared_out(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert {p.job.threads for p in shop.plan(Limits(jobs=3))} == {2}
    assert {p.job.threads for p in shop.plan(Limits(jobs=16))} == {1}
