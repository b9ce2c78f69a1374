"""Run a benchmark: each bundle in its own process, its calls in turn with those of the others."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from effsam_export.bench import process
from effsam_export.bench.results import PROMPTS, TITLES, Benchmark, Measured, latency_of
from effsam_export.bench.subjects import subjects
from effsam_export.errors import CheckFailed
from effsam_export.imaging.decode import read_image
from effsam_export.util import machine
from effsam_export.util.progress import ignore_event, stage
from effsam_export.util.timing import SETTLE_S

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from effsam_export.bench.process import Worker
    from effsam_export.bench.subjects import Subject
    from effsam_export.util.progress import OnEvent, OnProgress

WARM_UP, REPEATS = 2, 10
Task = tuple[Literal["first_mask"]] | tuple[Literal["decode"], int]
TASKS: tuple[Task, ...] = (("first_mask",), *(("decode", n) for n in PROMPTS))
"""Calls of a round, with their arguments."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a benchmark measures.

    Attributes:
        image: The image that is segmented.
        warm_up: Calls of each task before the timed ones.
        repeats: Timed calls of each task.
        threads: Number of CPU threads; None for those of the targets and the runtimes.
        settle_s: Rest before each call, in seconds; see `timing.SETTLE_S`.
    """

    image: Path
    warm_up: int = WARM_UP
    repeats: int = REPEATS
    threads: int | None = None
    settle_s: float = SETTLE_S


@dataclass(kw_only=True)
class Running:
    """A bundle that is being measured."""

    subject: Subject
    worker: Worker | None = None
    open_s: float | None = None
    one_prompt_bytes: int | None = None
    peak_bytes: int | None = None
    seconds: dict[str, list[float]] = field(default_factory=dict)
    failure: str = ""

    def call(self, name: str, *arguments: int, counted: bool) -> None:
        """Run one call in the bundle's process; after a failure, none.

        Args:
            name: Name of the call.
            arguments: Its arguments.
            counted: Keep its times.
        """
        if self.worker is None:
            return
        try:
            answer = self.worker.call(name, *arguments)
        except CheckFailed as error:
            self.failure, self.worker = error.message, None
            self.seconds.clear()
            return
        self.peak_bytes = answer.peak_bytes
        if name == "open":
            self.open_s = answer.seconds["open"]
        elif self.one_prompt_bytes is None:
            self.one_prompt_bytes = answer.peak_bytes
        if counted:
            for task, taken in answer.seconds.items():
                self.seconds.setdefault(task, []).append(taken)

    def measured(self) -> Measured:
        """Return what was measured."""
        return Measured(
            subject=self.subject,
            latencies={t: latency_of(self.seconds[t]) for t in TITLES if t in self.seconds},
            open_s=self.open_s,
            one_prompt_bytes=self.one_prompt_bytes,
            peak_bytes=self.peak_bytes,
            failure=self.failure,
        )


def bench(paths: Sequence[Path], settings: Settings, on_event: OnEvent = ignore_event) -> Benchmark:
    """Measure bundles side by side.

    A bundle that cannot run on this machine, or fails, has no latencies in the result.

    Args:
        paths: Directories of bundles, or packed ones.
        settings: What is measured.
        on_event: Called with each stage event.

    Raises:
        BundleError: A bundle cannot be read.
        ImageError: The image cannot be read.
    """
    height, width = read_image(settings.image).pixels.shape[:2]
    with ExitStack() as stack:
        bundles = [Running(subject=s) for s in subjects(paths, settings.threads, stack)]
        with stage("measure", on_event) as running:
            for bundle in bundles:
                if not bundle.subject.obstacle:
                    image = settings.image.resolve()
                    bundle.worker = stack.enter_context(process.started(bundle.subject, image))
                    bundle.call("open", counted=False)
            _rounds([b for b in bundles if b.worker is not None], settings, running.on_progress)
            running.detail = f"{len(bundles)} bundles" if len(bundles) > 1 else "1 bundle"
            running.failed = any(b.failure for b in bundles)
    return Benchmark(
        machine=machine.describe(),
        image=settings.image.name,
        width=width,
        height=height,
        warm_up=settings.warm_up,
        repeats=settings.repeats,
        threads=settings.threads,
        bundles=tuple(b.measured() for b in bundles),
    )


def _rounds(bundles: Sequence[Running], settings: Settings, on_progress: OnProgress) -> None:
    """Call every task of every bundle in each round, the bundles in a new random order."""
    able = {task: [b for b in bundles if _has(b.subject, task)] for task in TASKS}
    rounds = settings.warm_up + settings.repeats
    total = rounds * sum(map(len, able.values()))
    order = random.Random(0)
    done = 0
    for number in range(rounds):
        for task in TASKS:
            for bundle in order.sample(able[task], k=len(able[task])):
                time.sleep(settings.settle_s)
                bundle.call(*task, counted=number >= settings.warm_up)
                done += 1
                on_progress(done, total)


def _has(subject: Subject, task: Task) -> bool:
    """Return whether a bundle has what a task needs."""
    if task[0] == "decode":
        return "decoder" in subject.components
    return "encoder" in subject.components or "segmenter" in subject.components
