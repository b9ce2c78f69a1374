"""A build: every cell from the store or from a worker, as many at once as cores and memory allow.

A cell that fails does not stop the others. Where the build itself is stopped, what is done is in
the store, and the next one goes on from there.
"""

from __future__ import annotations

import os
import shutil
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from effsam_export.errors import EffsamError
from effsam_export.matrix import keys, worker
from effsam_export.matrix.store import Built, Store, deliver
from effsam_export.matrix.worker import Answer, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from effsam_export.matrix.config import Build, Cell
    from effsam_export.matrix.keys import Environment
    from effsam_export.spec.stages import Checkpoint

    Execute = Callable[[Job, Path], Answer]

UNKNOWN_MB = 6000.0
"""Memory of a cell that never ran here: MobileSAM's take 2 to 4 GB, ViT-B's 5."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A cell with everything it follows from.

    Attributes:
        digest: Names its bundle in the store.
        bundle: Where the store has it already.
        reasons: Why it has to be built, as sentences; empty where it has not.
    """

    cell: Cell
    job: Job
    parts: Mapping[str, str]
    digest: str
    bundle: Path | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a cell.

    Attributes:
        cached: Nothing was converted: the store had the bundle.
        output: Where the bundle is; None where there is none.
        evidence: Folder with the log and the report of a cell that failed.
    """

    cell: Cell
    answer: Answer
    cached: bool = False
    reasons: tuple[str, ...] = ()
    output: Path | None = None
    evidence: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a cell: it was started, or it is done."""

    kind: Literal["started", "done"]
    cell: Cell
    result: Result | None = None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much of the machine a build may use.

    Attributes:
        jobs: Cells at once.
        memory_mb: Of all of them together, in MB of 1e6 bytes; one alone always runs.
    """

    jobs: int = 1
    memory_mb: float = field(default_factory=lambda: free_memory_mb())


def free_memory_mb() -> float:
    """Memory that is free now, in MB; without bound where the system does not say."""
    try:
        pages = os.sysconf("SC_AVPHYS_PAGES")
        text = Path("/proc/meminfo").read_text("ascii") if Path("/proc/meminfo").is_file() else ""
    except (OSError, ValueError):
        return float("inf")
    for line in text.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 / 1e6
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def plan(
    build: Build,
    checkpoints: Mapping[str, Checkpoint],
    store: Store,
    limits: Limits,
    environment: Callable[[Cell], Environment] | None = None,
) -> list[Planned]:
    """Which cells the store has, and why each other one has to be built. Nothing is converted.

    Args:
        build: The file.
        checkpoints: Model -> its weights.
        store: Of bundles.
        limits: Their jobs share the cores.
        environment: Of the machine that a cell will be done on.

    Raises:
        EffsamError: A cell cannot be done as asked.
    """
    threads = max(1, (os.cpu_count() or 1) // limits.jobs)
    found = []
    for cell in build.cells:
        weights, before = checkpoints[cell.model], store.last(cell.name)
        job = Job(
            name=cell.name,
            model=cell.model,
            target=absolute(cell.target),
            precision=cell.precision,
            options=dict(cell.options),
            checkpoint=str(weights.path.resolve()),
            sha256=weights.sha256,
            official=weights.official,
            parity=None if build.parity is None else str(build.parity.resolve()),
            calibration=build.calibration,
            threads=threads,
            needs_mb=UNKNOWN_MB if before is None else before.peak_mb,
            stages=str(store.stages.resolve()),
        )
        asked = worker.request_of(cell, job, Path(worker.BUNDLE))
        parts = keys.parts(asked, (environment or this_machine)(cell))
        digest = keys.digest(parts)
        there = store.find(digest)
        reasons: tuple[str, ...] = ()
        if there is None:
            changed = () if before is None else tuple(keys.reasons(before.parts, parts))
            reasons = changed or ("it is not in the cache" if before else "it was never built",)
        found.append(
            Planned(
                cell=cell,
                job=job,
                parts=parts,
                digest=digest,
                bundle=None if there is None else there[0],
                reasons=reasons,
            )
        )
    return found


def this_machine(cell: Cell) -> Environment:
    """What this machine brings to a cell: the same to each."""
    del cell
    return keys.here()


def absolute(target: str) -> str:
    """A profile's name as it is, a file by its whole path."""
    return str(Path(target).resolve()) if target.endswith(".toml") else target


def run(
    planned: Sequence[Planned],
    store: Store,
    output: Path,
    limits: Limits,
    on_event: Callable[[Event], None],
    execute: Execute = worker.run,
) -> list[Result]:
    """Bring every cell's bundle to `output`, in the order that the machine allows.

    Args:
        planned: From `plan`.
        store: Of bundles.
        output: Folder of the bundles, each in one called like its cell.
        limits: Of cells at once and of memory.
        on_event: Called when a cell is started or done, from this thread.
        execute: Does a job in a folder.

    Returns:
        In the order of `planned`.
    """
    results: dict[str, Result] = {}
    waiting: list[Planned] = []
    running: dict[Future[Result], Planned] = {}
    held = store.used(output, [entry.cell.name for entry in planned])
    with held, ThreadPoolExecutor(max_workers=limits.jobs) as pool:
        for entry in planned:
            if entry.bundle is None:
                waiting.append(entry)
                continue
            results[entry.cell.name] = result = cached(entry, entry.bundle, output)
            on_event(Event(kind="done", cell=entry.cell, result=result))
        try:
            while waiting or running:
                while (ready := next_of(waiting, running.values(), limits)) is not None:
                    waiting.remove(ready)
                    on_event(Event(kind="started", cell=ready.cell))
                    running[pool.submit(built, ready, store, output, execute)] = ready
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    cell = running.pop(future).cell
                    results[cell.name] = result = future.result()
                    on_event(Event(kind="done", cell=cell, result=result))
        except BaseException:
            # Stopped by hand, or by a fault of ours: nothing more is started.
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [results[entry.cell.name] for entry in planned]


def next_of(
    waiting: Sequence[Planned], busy: Collection[Planned], limits: Limits
) -> Planned | None:
    """The first cell that there is room for now, before others one that shares no stage.

    A cell that needs what a running one makes (its trace, and for INT8 the rounded weights) waits
    for it and holds its place all the while.
    """
    if len(busy) >= limits.jobs:
        return None
    taken = sum(entry.job.needs_mb for entry in busy)
    fitting = [
        entry for entry in waiting if not busy or taken + entry.job.needs_mb <= limits.memory_mb
    ]
    in_work = {shared(entry) for entry in busy}
    alone = (entry for entry in fitting if shared(entry) not in in_work)
    return next(alone, next(iter(fitting), None))


def shared(entry: Planned) -> tuple[str, bool]:
    """What the cells of one trace have in common."""
    return entry.job.model, entry.job.precision == "int8"


def cached(entry: Planned, bundle: Path, output: Path) -> Result:
    """A cell that the store has."""
    from effsam_export.bundle import read

    manifest = read.read(bundle).manifest
    parity = manifest["parity"]
    answer = Answer(
        state=manifest["state"],
        min_iou=parity["min_mask_iou"],
        mean_iou=parity["mean_mask_iou"],
    )
    return delivered(entry, answer, bundle, output, is_cached=True)


def built(entry: Planned, store: Store, output: Path, execute: Execute) -> Result:
    """A cell that has to be built; an error of ours is its result."""
    scratch = store.scratch(entry.digest)
    try:
        answer = execute(entry.job, scratch)
        if not answer.passed:
            return failed(entry, answer, scratch, output)
        record = Built(parts=entry.parts, seconds=answer.seconds, peak_mb=answer.peak_mb)
        (scratch / worker.LOG).unlink(missing_ok=True)
        bundle = store.keep(entry.digest, scratch, record, entry.cell.name)
        return delivered(entry, answer, bundle, output, is_cached=False)
    except (EffsamError, OSError) as error:
        message = error.message if isinstance(error, EffsamError) else str(error)
        answer = Answer(state="failed", message=message, hint=getattr(error, "hint", None))
        return Result(cell=entry.cell, answer=answer, reasons=entry.reasons)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def delivered(
    entry: Planned, answer: Answer, bundle: Path, output: Path, *, is_cached: bool
) -> Result:
    """Copy a bundle of the store to its place."""
    place = output / entry.cell.name
    try:
        deliver(bundle, place)
    except EffsamError as error:
        answer = Answer(state="failed", message=error.message, hint=error.hint)
        return Result(cell=entry.cell, answer=answer, reasons=entry.reasons)
    shutil.rmtree(evidence_of(place), ignore_errors=True)
    return Result(
        cell=entry.cell, answer=answer, cached=is_cached, reasons=entry.reasons, output=place
    )


def failed(entry: Planned, answer: Answer, scratch: Path, output: Path) -> Result:
    """Keep what a failed cell left: its log, and the report of a check that it missed."""
    evidence = evidence_of(output / entry.cell.name)
    shutil.rmtree(evidence, ignore_errors=True)
    report = scratch / f"{worker.BUNDLE}.failed"
    if report.is_dir():
        shutil.copytree(report, evidence)
    evidence.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(scratch / worker.LOG, evidence / worker.LOG)
    return Result(cell=entry.cell, answer=answer, reasons=entry.reasons, evidence=evidence)


def evidence_of(place: Path) -> Path:
    """Where the evidence of a failed cell is kept, as `effsam export` does."""
    return place.with_name(f"{place.name}.failed")
