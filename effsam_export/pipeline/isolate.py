"""Run a conversion in a separate process, so that a crash of the converter is an error message.

The two processes exchange pickle files in a temporary folder.
"""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from effsam_export import backends
from effsam_export.backends import messages
from effsam_export.errors import NEXT_LINE, CheckFailed, EffsamError, UsageError
from effsam_export.util.child import end_with_parent

if TYPE_CHECKING:
    from effsam_export.spec.stages import Artifact, Graph
    from effsam_export.spec.targets import TargetProfile

OTHER_SIDE = "import sys; from effsam_export.pipeline.isolate import main; main(*sys.argv[1:])"
"""Not `-m`: pickled classes would belong to `__main__` and could not be loaded here."""

LOG = logging.getLogger(__name__)
POLL_S = 0.2
"""Time between two looks at the log, for `--verbose`."""
TAIL = 3
"""Number of lines at the end of the log that an error shows."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """The task of the other process."""

    graph: Graph
    target: TargetProfile
    out_dir: Path


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a job: an artefact, or an `EffsamError` to raise again."""

    artifact: Artifact | None = None
    message: str = ""
    hint: str | None = None
    exit_code: int = 0


class ConversionFailed(CheckFailed):
    """A converter crashed, ran out of memory, or raised an unexpected exception.

    Args:
        what: The component and the backend.
        log: The converter's output.
        ending: How its process ended, as a sentence.
    """

    def __init__(self, what: str, log: Path, ending: str) -> None:
        text = log.read_text("utf-8", errors="replace")
        known = messages.explain(text)
        lines = [line for line in text.splitlines() if line.strip()][-TAIL:]
        cause = f": {known.cause}" if known else ""
        full_log = f"the converter's full output is in `{log}`"
        super().__init__(
            f"{what}: {ending}{cause}",
            lines=[line.strip().expandtabs(2)[:200] for line in lines],
            hint=f"{known.hint}; {full_log}" if known else full_log,
        )
        self.what = what
        self.log = log
        self.ending = ending

    def moved(self, log: Path) -> ConversionFailed:
        """Return the same error with another path of its log."""
        return ConversionFailed(self.what, log, self.ending)


def lower(graph: Graph, target: TargetProfile, out_dir: Path, log: Path) -> Artifact:
    """Run a backend's `lower` in a separate process that writes its output to a log.

    Args:
        graph: Traced component; the other process reads its files.
        target: Backend and precision.
        out_dir: Directory for the artefact's files.
        log: File for the converter's output.

    Raises:
        ConversionFailed: The process ended without a result.
        EffsamError: The backend raised it.
    """
    backends.require_lowering(target.backend)
    job, result = log.with_suffix(".job"), log.with_suffix(".result")
    temporary = log.with_suffix(".tmp")
    temporary.mkdir(exist_ok=True)
    job.write_bytes(pickle.dumps(Job(graph=_light(graph), target=target, out_dir=out_dir)))
    what = f"{graph.component.name}, {target.backend}"
    try:
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", OTHER_SIDE, str(job), str(result), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    # The same search path for modules as in this process.
                    "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
                    # What a killed converter leaves there is removed with the folder.
                    "TMPDIR": str(temporary.resolve()),
                },
            )
            try:
                code = followed(process, log)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        if not result.is_file():
            raise ConversionFailed(what, log, ending_of(code))
        outcome: Outcome = pickle.loads(result.read_bytes())
    finally:
        job.unlink(missing_ok=True)
        result.unlink(missing_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
    if outcome.artifact is None:
        kind = UsageError if outcome.exit_code == UsageError.exit_code else CheckFailed
        first, *lines = outcome.message.split(NEXT_LINE)
        raise kind(first, lines=lines, hint=outcome.hint)
    return outcome.artifact


def followed(
    process: subprocess.Popen[bytes], log: Path, logger: logging.Logger = LOG, prefix: str = ""
) -> int:
    """Return the exit code of a process, and log its output as it comes.

    Args:
        process: A converter, or a worker of a build.
        log: The file to which it writes.
        logger: Gets the lines at level DEBUG.
        prefix: Text before each line.
    """
    if not logger.isEnabledFor(logging.DEBUG):
        return process.wait()
    with log.open(encoding="utf-8", errors="replace") as file:
        begun = ""
        while True:
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_S)
            *lines, begun = (begun + file.read()).split("\n")
            for line in lines:
                logger.debug("%s%s", prefix, line)
            if process.returncode is not None:
                if begun:
                    logger.debug("%s%s", prefix, begun)
                return process.returncode


def ending_of(code: int) -> str:
    """Return how a process with this exit code ended, in words."""
    if code == -9:
        return "the converter was killed, most likely because memory ran out"
    if code < 0:
        return f"the converter crashed with signal {-code}"
    return f"the converter failed with code {code}"


def _light(graph: Graph) -> Graph:
    """Return a graph without its component's functions, which cannot be pickled."""
    component = replace(
        graph.component, wrap=_never, example=_never, feeds=_never, reference=_never, fixed=None
    )
    return replace(graph, component=component)


def _never(*_: object) -> NoReturn:
    raise AssertionError("a backend works on files and calls no function of the component")


def work(job: Job) -> Outcome:
    """Run a job in this process."""
    try:
        backend = backends.load(job.target.backend)
        return Outcome(artifact=backend.lower(job.graph, job.target, job.out_dir))
    except EffsamError as error:
        return Outcome(message=error.message, hint=error.hint, exit_code=error.exit_code)


def main(job: str, result: str, parent: str) -> None:
    """Entry point of the other process: read a job, run it, write the outcome."""
    end_with_parent(int(parent))
    outcome = work(pickle.loads(Path(job).read_bytes()))
    partial = Path(result).with_suffix(".partial")
    partial.write_bytes(pickle.dumps(outcome))
    partial.replace(result)
