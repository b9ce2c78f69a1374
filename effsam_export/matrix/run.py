"""Plan and run a build: each cell's bundle comes from the store or from a worker process.

A cell that fails does not stop the others. Finished bundles are in the store, so a build that was
interrupted continues where it stopped.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Future,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from effsam_export.errors import EffsamError
from effsam_export.matrix import keys, worker
from effsam_export.matrix.store import BuildRecord, Store, deliver
from effsam_export.matrix.worker import Job, Outcome
from effsam_export.pipeline import evidence

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from effsam_export.matrix.config import Build, Cell
    from effsam_export.matrix.keys import Environment
    from effsam_export.spec.stages import Checkpoint

    Execute = Callable[[Job, Path], Outcome]

LOG = logging.getLogger(__name__)
STOP_POLL_S = 0.2
UNKNOWN_MB = 6000.0
"""Assumed memory of a cell that was never built; ViT-B takes 5 GB."""


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """A cell with all its inputs.

    Attributes:
        parts: The inputs of its bundle, from `keys.parts`.
        digest: Their hash, which names the bundle in the store.
        bundle: Path of the bundle in the store; None if it must be built.
        reasons: Why it must be built, as sentences; empty if it is in the store.
    """

    cell: Cell
    job: Job
    parts: Mapping[str, str]
    digest: str
    bundle: Path | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a cell.

    Attributes:
        cached: Whether the bundle came from the store.
        reasons: Why the bundle was built.
        output: Path of the bundle; None if there is none.
        evidence: Folder with the log and the report of a failed cell.
    """

    cell: Cell
    outcome: Outcome
    cached: bool = False
    reasons: tuple[str, ...] = ()
    output: Path | None = None
    evidence: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Event:
    """A cell was started, or is done."""

    kind: Literal["started", "done"]
    cell: Cell
    result: Result | None = None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a build.

    Attributes:
        jobs: Number of cells that run at the same time.
        memory_mb: Memory of all running cells together, in MB of 1e6 bytes. If no cell runs, one is
            started whatever it needs.
    """

    jobs: int = 1
    memory_mb: float = field(default_factory=lambda: free_memory_mb())


def free_memory_mb() -> float:
    """Return the free memory in MB; infinity if the system does not report it."""
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
) -> list[PlannedCell]:
    """Return which bundles are in the store, and why each other one must be built.

    Args:
        build: The build file.
        checkpoints: Model -> its weights.
        store: The cache of bundles.
        limits: Its jobs share the CPU cores.
        environment: Returns the machine that will build a cell; by default this one.

    Raises:
        EffsamError: A cell has an invalid target, option or recipe.
    """
    threads = max(1, (os.cpu_count() or 1) // limits.jobs)
    found = []
    for cell in build.cells:
        weights, before = checkpoints[cell.model], store.last_record(cell.name)
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
            checkpoint_key=weights.key,
            base=None if weights.base is None else str(weights.base.path.resolve()),
            base_sha256="" if weights.base is None else weights.base.sha256,
            lora=None if weights.lora is None else str(weights.lora.path.resolve()),
            lora_sha256="" if weights.lora is None else weights.lora.sha256,
            lora_alpha=None if weights.lora is None else weights.lora.alpha,
            image_size=cell.image_size,
            batch=cell.batch,
        )
        request = worker.export_request(cell, job, Path(worker.BUNDLE))
        parts = keys.parts(request, (environment or this_machine)(cell))
        # The worker finds the size of a checkpoint where the cell names none.
        parts["cell.image_size"] = cell.image_size or "of the checkpoint"
        digest = keys.digest(parts)
        LOG.debug("%s: cache key %s, %d threads", cell.name, digest, threads)
        for name, value in parts.items():
            LOG.debug("%s: %s %s", cell.name, name, value)
        stored = store.find(digest)
        reasons: tuple[str, ...] = ()
        if stored is None:
            changed = () if before is None else tuple(keys.reasons(before.parts, parts))
            reasons = changed or ("it is not in the cache" if before else "it was never built",)
        found.append(
            PlannedCell(
                cell=cell,
                job=job,
                parts=parts,
                digest=digest,
                bundle=None if stored is None else stored[0],
                reasons=reasons,
            )
        )
    return found


def this_machine(cell: Cell) -> Environment:
    """Return the properties of this machine, the same for every cell."""
    del cell
    return keys.this_environment()


def absolute(target: str) -> str:
    """Return the name of a shipped target unchanged, and the absolute path of a target file."""
    return str(Path(target).resolve()) if target.endswith(".toml") else target


def run(
    planned: Sequence[PlannedCell],
    store: Store,
    output: Path,
    limits: Limits,
    on_event: Callable[[Event], None],
    execute: Execute = worker.run,
    stop: Callable[[], None] = worker.stop,
) -> list[Result]:
    """Write every cell's bundle to `output/<name of the cell>`, within the limits.

    Args:
        planned: Result of `plan`.
        store: The cache of bundles.
        output: Folder of the bundles.
        limits: Limits of jobs and memory.
        on_event: Called when a cell is started or done, in this thread.
        execute: Runs a job in a folder.
        stop: Called repeatedly after an interruption, until all calls of `execute` have returned.

    Returns:
        A result for each cell, in the order of `planned`.
    """
    results: dict[str, Result] = {}
    waiting: list[PlannedCell] = []
    running: dict[Future[Result], PlannedCell] = {}
    stopping = threading.Event()
    lock = store.in_use(output)
    with lock, ThreadPoolExecutor(max_workers=limits.jobs) as pool:
        for entry in planned:
            if entry.bundle is None:
                waiting.append(entry)
                continue
            results[entry.cell.name] = result = deliver_cached(entry, entry.bundle, output)
            on_event(Event(kind="done", cell=entry.cell, result=result))
        try:
            while waiting or running:
                while (ready := next_runnable(waiting, running.values(), limits)) is not None:
                    waiting.remove(ready)
                    on_event(Event(kind="started", cell=ready.cell))
                    running[pool.submit(build_cell, ready, store, output, execute, stopping)] = (
                        ready
                    )
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    cell = running.pop(future).cell
                    results[cell.name] = result = future.result()
                    on_event(Event(kind="done", cell=cell, result=result))
        except BaseException:
            # Interrupted, or an internal error: no further cell is started, those at work stop.
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)
            while any(not future.done() for future in running):
                stop()
                wait(running, timeout=STOP_POLL_S)
            raise
    return [results[entry.cell.name] for entry in planned]


def next_runnable(
    waiting: Sequence[PlannedCell], busy: Collection[PlannedCell], limits: Limits
) -> PlannedCell | None:
    """Return the next cell to start within the limits, or None.

    Cells that share no stage with a running cell come first. A cell that shares a stage (the trace,
    and for INT8 the rounded weights) would only wait until the running cell has finished it.
    """
    if len(busy) >= limits.jobs:
        return None
    taken = sum(entry.job.needs_mb for entry in busy)
    fitting = [
        entry for entry in waiting if not busy or taken + entry.job.needs_mb <= limits.memory_mb
    ]
    in_work = {stage_group(entry) for entry in busy}
    independent = (entry for entry in fitting if stage_group(entry) not in in_work)
    return next(independent, next(iter(fitting), None))


def stage_group(entry: PlannedCell) -> tuple[str, bool]:
    """Return a value that is equal for cells that share stages."""
    return entry.job.model, entry.job.precision == "int8"


def deliver_cached(entry: PlannedCell, bundle: Path, output: Path) -> Result:
    """Copy a bundle from the store to the output, and return its result."""
    from effsam_export.bundle import read

    manifest = read.read(bundle).manifest
    parity = manifest["parity"]
    outcome = Outcome(
        state=manifest["state"],
        min_iou=parity["min_mask_iou"],
        mean_iou=parity["mean_mask_iou"],
    )
    return deliver_bundle(entry, outcome, bundle, output, is_cached=True)


def build_cell(
    entry: PlannedCell,
    store: Store,
    output: Path,
    execute: Execute,
    stopping: threading.Event,
) -> Result:
    """Build a cell and deliver its bundle; an error becomes the outcome of the cell.

    Raises:
        CancelledError: The build was stopped meanwhile.
    """
    scratch = store.scratch(entry.digest)
    try:
        outcome = execute(entry.job, scratch)
        if stopping.is_set():
            raise CancelledError
        if not outcome.passed:
            return keep_evidence(entry, outcome, scratch, output)
        record = BuildRecord(parts=entry.parts, seconds=outcome.seconds, peak_mb=outcome.peak_mb)
        (scratch / worker.LOG).unlink(missing_ok=True)
        bundle = store.add(entry.digest, scratch, record, entry.cell.name)
        return deliver_bundle(entry, outcome, bundle, output, is_cached=False)
    except (EffsamError, OSError) as error:
        message = error.message if isinstance(error, EffsamError) else str(error)
        outcome = Outcome(state="failed", message=message, hint=getattr(error, "hint", None))
        return Result(cell=entry.cell, outcome=outcome, reasons=entry.reasons)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def deliver_bundle(
    entry: PlannedCell, outcome: Outcome, bundle: Path, output: Path, *, is_cached: bool
) -> Result:
    """Copy a bundle from the store to the output."""
    path = output / entry.cell.name
    try:
        deliver(bundle, path)
    except EffsamError as error:
        outcome = Outcome(state="failed", message=error.message, hint=error.hint)
        return Result(cell=entry.cell, outcome=outcome, reasons=entry.reasons)
    evidence.remove(path)
    return Result(
        cell=entry.cell, outcome=outcome, cached=is_cached, reasons=entry.reasons, output=path
    )


def keep_evidence(entry: PlannedCell, outcome: Outcome, scratch: Path, output: Path) -> Result:
    """Copy the log and the parity report of a failed cell to `output/<name>.failed`."""
    paths = [p for p in (scratch / f"{worker.BUNDLE}.failed").glob("[!.]*") if p.is_file()]
    files = {p.name: p.read_bytes() for p in (*paths, scratch / worker.LOG)}
    folder = evidence.keep(output / entry.cell.name, files)
    return Result(cell=entry.cell, outcome=outcome, reasons=entry.reasons, evidence=folder)
