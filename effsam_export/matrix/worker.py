"""Run one cell in a process of its own.

The two processes exchange JSON files, so a job can also run on another machine.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from effsam_export.errors import CheckFailed, EffsamError, ToolchainMissing
from effsam_export.util import signals
from effsam_export.util.owned import temporary_directory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.matrix.config import Cell
    from effsam_export.pipeline.request import ExportRequest
    from effsam_export.util.progress import StageEvent

CHILD_CODE = "import sys; from effsam_export.matrix.worker import main; main(*sys.argv[1:])"
State = Literal["verified", "simulated", "failed", "toolchain missing", "refused"]
LOGGER = logging.getLogger(__name__)
PACKAGE = logging.getLogger("effsam_export")
"""Parent of all loggers of this package."""
BUNDLE = "bundle"
LOG = "log.txt"
DETAILS = "details"
GRACE_S = 3.0
"""Time in which a worker that was asked to stop removes its files and ends its converter."""


@dataclass(eq=False, kw_only=True)
class RunningProcess:
    """A worker that `run` waits for, and the time at which `stop` kills it."""

    process: subprocess.Popen[bytes]
    deadline: float | None = None


RUNNING: set[RunningProcess] = set()
"""All workers of this process, for `stop`, which is called from another thread."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A cell to export; paths are absolute.

    Attributes:
        name: Name of the cell.
        target: Name of a shipped target, or path of a target file.
        options: Target options.
        checkpoint, base, lora: Paths of the weight file, of the one with its other parts, and of an
            adapter.
        sha256, base_sha256, lora_sha256: Their hashes.
        lora_alpha: Alpha of the adapter; None for the one in its configuration.
        checkpoint_key: Which weights of a file with several; None chooses.
        sha256: Its hash.
        official: Whether the hash is the one pinned for the authors' file.
        parity: Path of the file with evaluation images and prompts; None for the shipped ones.
        calibration: Name of a recipe, or path of a recipe file or of a folder of images.
        image_size: Size of the model's input as text; empty for that of the checkpoint.
        batch: Number of images in one call of the encoder as text; empty for one.
        threads: CPU threads.
        needs_mb: Expected memory in MB of 1e6 bytes: the peak of the last build, or a default.
        stages: Folder of stages that cells share; None shares nothing.
    """

    name: str
    model: str
    target: str
    precision: str
    options: Mapping[str, str]
    checkpoint: str
    sha256: str
    official: bool
    parity: str | None
    calibration: str
    threads: int
    needs_mb: float
    stages: str | None = None
    checkpoint_key: str | None = None
    base: str | None = None
    base_sha256: str = ""
    lora: str | None = None
    lora_sha256: str = ""
    lora_alpha: float | None = None
    image_size: str = ""
    batch: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a job.

    Attributes:
        state: State of the bundle; or `failed` (a check), `toolchain missing` (a package), or
            `refused` (an invalid request).
        min_iou, mean_iou: Mask IoU with PyTorch; None if nothing ran end to end.
        message, hint: Of the error; empty for a bundle.
        seconds: Wall time.
        peak_mb: Peak resident memory of the process and its converters, in MB of 1e6 bytes.
    """

    state: State
    min_iou: float | None = None
    mean_iou: float | None = None
    message: str = ""
    hint: str | None = None
    seconds: float = 0.0
    peak_mb: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the job has a bundle."""
        return self.state in ("verified", "simulated")


def export_request(cell: Cell, job: Job, output: Path) -> ExportRequest:
    """Return the export request of a cell.

    Raises:
        EffsamError: Its target, images or recipes are invalid.
    """
    from effsam_export import models
    from effsam_export.config import calibration, int8_recipe
    from effsam_export.models import batching, image_sizes
    from effsam_export.pipeline.request import ExportRequest, Int8Request
    from effsam_export.spec.stages import Checkpoint, LoraFile

    model, size = models.get(cell.model), image_sizes.parsed(job.image_size)
    if size is not None:
        model = image_sizes.resized(model, size)
    model = batching.in_written_batch(model, job.batch or "1")
    quantizing = None
    if cell.precision == "int8":
        quantizing = Int8Request(
            calibration=calibration.load(job.calibration), plan=int8_recipe.load(cell.model)
        )
    return ExportRequest(
        model=model,
        target=cell.profile,
        checkpoint=Checkpoint(
            path=Path(job.checkpoint),
            sha256=job.sha256,
            official=job.official,
            key=job.checkpoint_key,
            base=None
            if job.base is None
            else Checkpoint(path=Path(job.base), sha256=job.base_sha256, official=False),
            lora=None
            if job.lora is None
            else LoraFile(path=Path(job.lora), sha256=job.lora_sha256, alpha=job.lora_alpha),
        ),
        output=output,
        parity_file=None if job.parity is None else Path(job.parity),
        int8=quantizing,
    )


def run(job: Job, folder: Path) -> Outcome:
    """Run a job in another process. Its bundle is `folder/bundle`.

    A process that was killed gives the outcome `failed`.

    Args:
        job: The job.
        folder: Folder for the bundle, the log and the JSON files of the two processes.
    """
    from effsam_export.pipeline.isolate import ending_of, followed

    job_file, outcome_file = folder / "job.json", folder / "outcome.json"
    job_file.write_text(json.dumps(asdict(job)), "utf-8")
    threads = str(job.threads)
    began = time.perf_counter()
    with temporary_directory() as temporary, (folder / LOG).open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", CHILD_CODE),
                *(str(job_file), str(outcome_file), str(os.getpid())),
                *([DETAILS] if LOGGER.isEnabledFor(logging.DEBUG) else []),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
                "OMP_NUM_THREADS": threads,
                "MKL_NUM_THREADS": threads,
                # What a killed worker leaves there is removed with the directory.
                "TMPDIR": str(temporary),
            },
        )
        running = RunningProcess(process=process)
        RUNNING.add(running)
        try:
            code = followed(process, folder / LOG, LOGGER, f"{job.name}: ")
        finally:
            RUNNING.remove(running)
            if process.poll() is None:
                process.kill()
                process.wait()
    taken = time.perf_counter() - began
    if not outcome_file.is_file():
        message = ending_of(code).replace("the converter", "the worker")
        lines = [line for line in (folder / LOG).read_text("utf-8", "replace").splitlines() if line]
        # The last line of a traceback names the exception.
        message += f": {lines[-1][:200]}" if code > 0 and lines else ""
        return Outcome(state="failed", message=message, seconds=taken)
    outcome = Outcome(**json.loads(outcome_file.read_text("utf-8")))
    job_file.unlink()
    outcome_file.unlink()
    return replace(outcome, seconds=taken)


def stop() -> None:
    """Ask all workers of this process to end; kill those that were asked `GRACE_S` ago."""
    now = time.monotonic()
    for running in list(RUNNING):
        if running.deadline is None:
            running.deadline = now + GRACE_S
            running.process.terminate()
        elif now > running.deadline:
            running.process.kill()


def export_cell(job: Job, folder: Path) -> Outcome:
    """Run a job in this process, and return its outcome without duration and memory."""
    from effsam_export.matrix.config import Cell
    from effsam_export.pipeline import image_size, stage_keys
    from effsam_export.pipeline import run as pipeline
    from effsam_export.pipeline.stage_cache import StageCache

    cell = Cell(
        model=job.model, target=job.target, precision=job.precision, options=dict(job.options)
    )
    try:
        request = export_request(cell, job, folder / BUNDLE)
        if not job.image_size:
            # Not in the plan: a build that finds everything in its cache starts without torch.
            model = image_size.of_checkpoint(request.model, request.weights)
            request = replace(request, model=model)
        if job.stages is not None:
            parts = stage_keys.stage_parts(request, job.threads)
            request = replace(request, stage_cache=StageCache(root=Path(job.stages), parts=parts))
        report = pipeline.export(request, _log)
    except ToolchainMissing as error:
        return Outcome(state="toolchain missing", message=error.message, hint=error.hint)
    except pipeline.ParityFailed as error:
        return Outcome(
            state="failed",
            message=error.report.failures[0],
            hint=error.hint,
            min_iou=error.report.min_iou,
            mean_iou=error.report.mean_iou,
        )
    except CheckFailed as error:
        return Outcome(state="failed", message=error.message, hint=error.hint)
    except EffsamError as error:
        return Outcome(state="refused", message=error.message, hint=error.hint)
    return Outcome(
        state="simulated" if report.simulator else "verified",
        min_iou=report.min_iou,
        mean_iou=report.mean_iou,
    )


def _log(event: StageEvent) -> None:
    """Write an event to standard output, which is the cell's log file."""
    steps = "" if event.total is None else f" {event.done}/{event.total}"
    detail = f": {event.detail}" if event.detail else ""
    sys.stdout.write(f"{event.kind} {event.stage}{steps}, {event.seconds:.1f} s{detail}\n")
    sys.stdout.flush()


def peak_mb() -> float:
    """Return the peak resident memory of this process plus that of its largest child, in MB."""
    import resource  # not on Windows

    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024
    return sum(resource.getrusage(who).ru_maxrss for who in both) * unit / 1e6


def main(job_file: str, outcome_file: str, parent: str, *more: str) -> None:
    """Entry point of the child process: read a job, run it, and write its outcome.

    With `DETAILS` as the last argument, what the library logs is in the cell's log file too.
    """
    from effsam_export.util.child import end_with_parent

    end_with_parent(int(parent))
    if DETAILS in more:
        PACKAGE.addHandler(logging.StreamHandler(sys.stdout))
        PACKAGE.setLevel(logging.DEBUG)
    path = Path(outcome_file)
    try:
        with signals.raised():
            outcome = export_cell(Job(**json.loads(Path(job_file).read_text("utf-8"))), path.parent)
    except signals.Stopped as stop:
        signals.leave(128 + stop.signal)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(replace(outcome, peak_mb=peak_mb()))), "utf-8")
    partial.replace(path)
