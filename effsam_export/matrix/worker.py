"""One cell in a process of its own: what it is asked, what it answers, and what it is made of.

The two sides pass JSON files, so that the other one may be on another machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from effsam_export.errors import CheckFailed, EffsamError, ToolchainMissing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.matrix.config import Cell
    from effsam_export.pipeline.request import ExportRequest

OTHER_SIDE = "import sys; from effsam_export.matrix.worker import main; main(*sys.argv[1:])"
State = Literal["verified", "simulated", "failed", "toolchain missing", "refused"]
BUNDLE = "bundle"
LOG = "log.txt"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker is asked to do; paths are absolute.

    Attributes:
        name: Of the cell.
        checkpoint: The weight file.
        official: Its hash is the one pinned for the authors' file.
        threads: Of the libraries that compute.
        needs_mb: Memory that it took last time, or a guess, in MB of 1e6 bytes.
        stages: Folder of what its stages share with those of other cells; None for none.
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


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a job.

    Attributes:
        state: Of the bundle, or why there is none: a check failed, a package is missing, or the
            job cannot be done as asked.
        min_iou, mean_iou: Mask IoU with PyTorch; None where nothing ran end to end.
        message, hint: Of the error.
        seconds: Wall time.
        peak_mb: Largest resident memory of the process and its converters, in MB of 1e6 bytes.
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
        """Whether there is a bundle."""
        return self.state in ("verified", "simulated")


def request_of(cell: Cell, job: Job, output: Path) -> ExportRequest:
    """The export that a cell stands for.

    Raises:
        EffsamError: What is wrong with its target, photographs or recipes.
    """
    from effsam_export import models
    from effsam_export.config import calibration, int8_recipe
    from effsam_export.pipeline.request import ExportRequest, Int8Request
    from effsam_export.spec.stages import Checkpoint

    quantizing = None
    if cell.precision == "int8":
        quantizing = Int8Request(
            calibration=calibration.load(job.calibration), plan=int8_recipe.load(cell.model)
        )
    return ExportRequest(
        model=models.get(cell.model),
        target=cell.profile,
        checkpoint=Checkpoint(path=Path(job.checkpoint), sha256=job.sha256, official=job.official),
        output=output,
        parity_file=None if job.parity is None else Path(job.parity),
        int8=quantizing,
    )


def run(job: Job, folder: Path) -> Answer:
    """Do a job in another process; its bundle, if there is one, is `folder/bundle`.

    A process that is killed, by the system or by hand, is an answer too.

    Args:
        job: What to do.
        folder: For the bundle, the log and the two files between the processes.
    """
    from effsam_export.pipeline.isolate import ending_of

    asked, answered = folder / "job.json", folder / "answer.json"
    asked.write_text(json.dumps(asdict(job)), "utf-8")
    threads = str(job.threads)
    began = time.perf_counter()
    with (folder / LOG).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", OTHER_SIDE, str(asked), str(answered)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
                "OMP_NUM_THREADS": threads,
                "MKL_NUM_THREADS": threads,
            },
        )
        try:
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    taken = time.perf_counter() - began
    if not answered.is_file():
        message = ending_of(code).replace("the converter", "the worker")
        said = [line for line in (folder / LOG).read_text("utf-8", "replace").splitlines() if line]
        # An exception that nobody caught ends with what it was.
        message += f": {said[-1][:200]}" if code > 0 and said else ""
        return Answer(state="failed", message=message, seconds=taken)
    found = Answer(**json.loads(answered.read_text("utf-8")))
    asked.unlink()
    answered.unlink()
    return replace(found, seconds=taken)


def work(job: Job, folder: Path) -> Answer:
    """Do a job in this process."""
    from effsam_export.matrix import keys
    from effsam_export.matrix.config import Cell
    from effsam_export.pipeline import run as pipeline
    from effsam_export.pipeline.stage_cache import StageCache

    cell = Cell(
        model=job.model, target=job.target, precision=job.precision, options=dict(job.options)
    )
    try:
        asked = request_of(cell, job, folder / BUNDLE)
        if job.stages is not None:
            shared = StageCache(root=Path(job.stages), parts=keys.shared(asked, job.threads))
            asked = replace(asked, stage_cache=shared)
        report = pipeline.export(asked, _told)
    except ToolchainMissing as error:
        return Answer(state="toolchain missing", message=error.message, hint=error.hint)
    except pipeline.ParityFailed as error:
        ious = [c.min_iou for c in error.report.cases]
        return Answer(
            state="failed",
            message=error.report.failures[0],
            hint=error.hint,
            min_iou=min(ious, default=None),
            mean_iou=sum(ious) / len(ious) if ious else None,
        )
    except CheckFailed as error:
        return Answer(state="failed", message=error.message, hint=error.hint)
    except EffsamError as error:
        return Answer(state="refused", message=error.message, hint=error.hint)
    ious = [c.min_iou for c in report.cases]
    return Answer(
        state="simulated" if report.simulator else "verified",
        min_iou=min(ious, default=None),
        mean_iou=sum(ious) / len(ious) if ious else None,
    )


def _told(event: object) -> None:
    """Stages go to the log, for whoever looks why a cell failed."""
    sys.stdout.write(f"{event}\n")
    sys.stdout.flush()


def peak_mb() -> float:
    """Largest resident memory of this process and of its largest child, added, in MB."""
    import resource  # not on Windows

    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024
    return sum(resource.getrusage(who).ru_maxrss for who in both) * unit / 1e6


def main(job: str, answer: str) -> None:
    """The other process: read a job, do it, write what became of it."""
    from effsam_export.pipeline.isolate import end_with_parent

    end_with_parent()
    path = Path(answer)
    found = work(Job(**json.loads(Path(job).read_text("utf-8"))), path.parent)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(replace(found, peak_mb=peak_mb()))), "utf-8")
    partial.replace(path)
