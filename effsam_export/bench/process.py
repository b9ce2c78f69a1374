"""Start the process of one bundle, and ask it for calls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from effsam_export.errors import CheckFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from effsam_export.bench.subjects import Subject

OTHER_SIDE = "import sys; from effsam_export.bench.worker import main; main(*sys.argv[1:])"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The result of one call.

    Attributes:
        seconds: What was measured, by name.
        peak_bytes: Largest resident memory of the process so far; None where it is not known.
    """

    seconds: Mapping[str, float]
    peak_bytes: int | None


class Worker:
    """A running process of one bundle."""

    def __init__(self, process: subprocess.Popen[str], log: IO[bytes]) -> None:
        self._process = process
        self._log = log

    def call(self, name: str, *arguments: int) -> Answer:
        """Run one call in the process.

        Raises:
            CheckFailed: The call raised an error, or the process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = ""
        # A broken pipe means that the process has ended, which the empty line shows too.
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([name, *arguments]) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise CheckFailed(self._ending())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise CheckFailed(answer["error"], hint=answer["hint"])
        return Answer(seconds=answer["seconds"], peak_bytes=answer["peak_bytes"])

    def _ending(self) -> str:
        """Return how the process ended, as a sentence."""
        code = self._process.wait()
        if code == -9:
            return "its process was killed, most likely because memory ran out"
        how = f"crashed with signal {-code}" if code < 0 else f"ended with code {code}"
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").split("\n")
        last = next((x.strip()[:200] for x in reversed(lines) if x.strip()), "")
        return f"its process {how}" + (f": {last}" if last else "")


@contextmanager
def started(subject: Subject, image: Path) -> Iterator[Worker]:
    """Start the process of a bundle; it is ended with the block.

    Args:
        subject: The bundle.
        image: The image that it segments.
    """
    settings = {
        "bundle": str(subject.path),
        "image": str(image),
        "threads": subject.threads,
        "prompts_per_call": subject.prompts_per_call or None,
    }
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-c", OTHER_SIDE, json.dumps(settings), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
            env={
                **os.environ,
                # The same search path for modules as in this process.
                "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            },
        )
        try:
            yield Worker(process, log)
        finally:
            # It waits for calls, and has nothing to finish.
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    if pipe is not None:
                        pipe.close()
