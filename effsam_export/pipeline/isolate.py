"""A conversion in a process of its own: a converter that crashes takes nobody with it.

The two sides write pickles for each other, in a folder that only they use.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from effsam_export import backends
from effsam_export.backends import messages
from effsam_export.errors import CheckFailed, EffsamError, UsageError

if TYPE_CHECKING:
    from effsam_export.spec.stages import Artifact, Graph
    from effsam_export.spec.targets import TargetProfile

OTHER_SIDE = "import sys; from effsam_export.pipeline.isolate import main; main(*sys.argv[1:])"
"""Not `-m`: what is pickled would belong to `__main__` then, and not be known here."""

PR_SET_PDEATHSIG = 1
"""`linux/prctl.h`."""
TAIL = 3
"""Lines of the log that an error shows."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the other process is asked to do."""

    graph: Graph
    target: TargetProfile
    out_dir: Path


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of it: an artefact, or an error of ours to be raised again."""

    artifact: Artifact | None = None
    message: str = ""
    hint: str | None = None
    exit_code: int = 0


class ConversionFailed(CheckFailed):
    """A converter crashed, ran out of memory, or raised what is not an error of ours.

    Args:
        what: The component and the backend.
        log: What the converter printed.
        ending: How its process ended, as a sentence.
    """

    def __init__(self, what: str, log: Path, ending: str) -> None:
        text = log.read_text("utf-8", errors="replace")
        known = messages.explain(text)
        lines = [line for line in text.splitlines() if line.strip()][-TAIL:]
        shown = "".join(f"\n  {line.strip()[:200]}" for line in lines)
        cause = f": {known.cause}" if known else ""
        all_of_it = f"everything it said is in `{log}`"
        super().__init__(
            f"{what}: {ending}{cause}{shown}",
            hint=f"{known.hint}; {all_of_it}" if known else all_of_it,
        )
        self.what = what
        self.log = log
        self.ending = ending

    def moved(self, log: Path) -> ConversionFailed:
        """The same error, with its log in another place."""
        return ConversionFailed(self.what, log, self.ending)


def lower(graph: Graph, target: TargetProfile, out_dir: Path, log: Path) -> Artifact:
    """Run a backend's `lower` in another process, its output in a log.

    Args:
        graph: Traced component; its files are read by the other process.
        target: Whose backend is run.
        out_dir: Where the artefact goes.
        log: File for everything the converter prints.

    Raises:
        ConversionFailed: The process ended without an answer.
        EffsamError: What the backend raised.
    """
    backends.require_lowering(target.backend)
    job, result = log.with_suffix(".job"), log.with_suffix(".result")
    job.write_bytes(pickle.dumps(Job(graph=_light(graph), target=target, out_dir=out_dir)))
    what = f"{graph.component.name}, {target.backend}"
    try:
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", OTHER_SIDE, str(job), str(result)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                # The same modules as here, wherever they were found.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            )
            try:
                code = process.wait()
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
    if outcome.artifact is None:
        kind = UsageError if outcome.exit_code == UsageError.exit_code else CheckFailed
        raise kind(outcome.message, hint=outcome.hint)
    return outcome.artifact


def ending_of(code: int) -> str:
    """How a process ended, in words."""
    if code == -9:
        return "the converter was killed, most likely because memory ran out"
    if code < 0:
        return f"the converter crashed with signal {-code}"
    return f"the converter failed with code {code}"


def _light(graph: Graph) -> Graph:
    """A graph without the functions of its component, which a lowering never calls."""
    component = replace(
        graph.component, wrap=_never, example=_never, feeds=_never, reference=_never, fixed=None
    )
    return replace(graph, component=component)


def _never(*_: object) -> NoReturn:
    raise AssertionError("a backend lowers files")


def work(job: Job) -> Outcome:
    """Do a job in this process."""
    try:
        backend = backends.load(job.target.backend)
        return Outcome(artifact=backend.lower(job.graph, job.target, job.out_dir))
    except EffsamError as error:
        return Outcome(message=error.message, hint=error.hint, exit_code=error.exit_code)


def end_with_parent() -> None:
    """Have this process killed when the thread that started it ends, where the system can: Linux.

    Else a converter goes on for minutes, and holds its memory, for a build that was killed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


def main(job: str, result: str) -> None:
    """The other process: read a job, do it, write what came of it."""
    end_with_parent()
    outcome = work(pickle.loads(Path(job).read_bytes()))
    whole = Path(result).with_suffix(".partial")
    whole.write_bytes(pickle.dumps(outcome))
    whole.replace(result)
