"""Start a command, stop it by a signal at some moment, and list what it left.

`python -m tests.interruptions FOLDER export` (or `build`) prints a table for the small model: ten
moments for each signal, one in each tenth of the command's duration, from one seed.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REGISTER = """
from effsam_export import models
models.MODELS["small-sam"] = ("tests.small", "SMALL_SAM")
"""
BUILD = """
models = ["small-sam"]
targets = ["onnx"]
precisions = ["fp32"]
parity = "parity.toml"
checkpoints = { small-sam = "small.pt" }
"""
PARITY = """
[[images]]
file = "photo.png"
prompts = [{ name = "point", points = [[60, 40, 1]] }]
"""
RUN = "EFFSAM_TEST_RUN"
"""Environment variable by which the processes of a command are found."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a command ended.

    Attributes:
        code: Its exit code; negative for the signal that killed it.
        seconds: From the signal to its end.
        messages: What it printed on stderr.
        processes: Command lines of processes that outlived it by a second.
        left: Temporary files, relative to the workplace.
    """

    code: int
    seconds: float
    messages: str
    processes: tuple[str, ...]
    left: tuple[str, ...]


class Workplace:
    """A folder with the small model, a build file, and its own cache and temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dist = folder / "dist"
        for name in ("dist", "tmp", "startup"):
            (folder / name).mkdir()
        # Python imports it by itself when it starts.
        (folder / "startup" / "sitecustomize.py").write_text(REGISTER, "utf-8")
        (folder / "effsam.toml").write_text(BUILD, "utf-8")
        (folder / "parity.toml").write_text(PARITY, "utf-8")

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(self.folder / "startup"), str(REPOSITORY)]),
            "EFFSAM_CACHE_DIR": str(self.folder / "cache"),
            "TMPDIR": str(self.folder / "tmp"),
            "OMP_NUM_THREADS": "1",
            RUN: str(self.folder),
        }

    def export(self) -> Sequence[str]:
        """The arguments of an export to `dist/out`."""
        return (
            *("export", "small-sam", "--target", "onnx", "--force", "--quiet"),
            *("--checkpoint", str(self.folder / "small.pt")),
            *("--parity", str(self.folder / "parity.toml")),
            *("--component", "encoder", "--output", str(self.dist / "out")),
        )

    def build(self) -> Sequence[str]:
        """The arguments of a build to `dist`."""
        return ("build", str(self.folder / "effsam.toml"), "--output", str(self.dist), "--quiet")

    def start(self, arguments: Sequence[str]) -> subprocess.Popen[str]:
        """Start a command in a session of its own: a signal to it is to it alone."""
        return subprocess.Popen(
            [sys.executable, "-m", "effsam_export", *arguments],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A shell starts jobs in the background with SIGINT ignored.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )

    def end(self, process: subprocess.Popen[str], number: int | None) -> Ending:
        """Send a signal, if one is given, and wait for the end of the command."""
        if number is not None:
            process.send_signal(number)
        began = time.monotonic()
        _, messages = process.communicate()
        seconds = time.monotonic() - began
        deadline = time.monotonic() + 1
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.02)
        return Ending(
            code=process.returncode,
            seconds=seconds,
            messages=messages,
            processes=self.processes(),
            left=self.left(),
        )

    def run(self, arguments: Sequence[str]) -> Ending:
        """Run a command to its end."""
        return self.end(self.start(arguments), None)

    def stopped(self, arguments: Sequence[str], number: int, after: float) -> Ending:
        """Run a command, and send it a signal after some seconds."""
        process = self.start(arguments)
        time.sleep(after)
        return self.end(process, number)

    def processes(self) -> tuple[str, ...]:
        """Command lines of the running processes of this workplace."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                mine = f"{RUN}={self.folder}\0".encode() in (entry / "environ").read_bytes()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            # A zombie has neither.
            if mine and command:
                found.append(command.replace(b"\0", b" ").decode("utf-8", "replace")[:200])
        return tuple(found)

    def left(self) -> tuple[str, ...]:
        """Everything that a command which ended should have removed."""
        work = self.folder / "cache" / "build" / "work"
        paths = {
            *(self.folder / "tmp").glob("*"),
            *self.dist.glob(".*"),
            *work.glob("*"),
            *self.dist.rglob("*.partial"),
            *(self.folder / "cache").rglob("*.partial"),
        }
        return tuple(sorted(str(p.relative_to(self.folder)) for p in paths))


def table(folder: Path, name: str, moments: int, seed: int) -> list[str]:
    """Return a row for each signal: what the stopped runs left, and what the next run left of it.

    Args:
        folder: An empty folder with `small.pt` and `photo.png`.
        name: `export` or `build`.
        moments: Number of moments for each signal.
        seed: Of the moments.
    """
    place = Workplace(folder)
    arguments = place.export() if name == "export" else place.build()
    chance, rows = random.Random(seed), []
    # Fills the file cache, and the stage cache of a build.
    baseline = set(whole(place, arguments).left)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        # Measured again each time: it depends on what else the machine does.
        began = time.monotonic()
        whole(place, arguments)
        duration = time.monotonic() - began
        print(f"{name} takes {duration:.1f} s, and leaves {sorted(baseline)}", file=sys.stderr)
        endings, counts, remaining = [], [], [0]
        for tenth in range(moments):
            forget(place)
            after = duration * (tenth + chance.random()) / moments
            ending = place.stopped(arguments, number, after)
            left = sorted(set(ending.left) - baseline)
            print(
                f"{name} {number.name} at {after:5.2f} s: code {ending.code}, "
                f"{ending.seconds:.2f} s, processes {len(ending.processes)}, left {left}, "
                f"{len(ending.messages.splitlines())} lines: {ending.messages[-100:]!r}",
                file=sys.stderr,
                flush=True,
            )
            endings.append(ending)
            counts.append(len(left))
            if left:
                remaining.append(len(set(whole(place, arguments).left) - baseline))
        codes = sorted({e.code for e in endings})
        rows.append(
            f"| {name} | {number.name} | {', '.join(map(str, codes))} "
            f"| {max(e.seconds for e in endings):.2f} s | {sum(map(bool, counts))} of {moments} "
            f"| {max(counts)} | {sum(len(e.processes) for e in endings)} | {max(remaining)} |"
        )
    return rows


def whole(place: Workplace, arguments: Sequence[str]) -> Ending:
    """Run a command to its end, which has to be a success."""
    forget(place)
    ending = place.run(arguments)
    assert ending.code == 0, ending.messages
    return ending


def forget(place: Workplace) -> None:
    """Remove finished bundles from the cache of a build, so that it works again."""
    for bundle in (place.folder / "cache" / "build" / "bundles").glob("*"):
        shutil.rmtree(bundle)


def main() -> None:
    """Print the table."""
    import numpy as np
    from PIL import Image

    from tests.small import write_checkpoint

    folder, name = Path(sys.argv[1]), sys.argv[2]
    folder.mkdir(parents=True)
    write_checkpoint(folder / "small.pt")
    image = np.zeros((80, 120, 3), dtype=np.uint8)
    image[20:60, 30:90] = (200, 120, 40)
    Image.fromarray(image).save(folder / "photo.png")
    rows = table(folder, name, moments=10, seed=25)
    print("| command | signal | codes | longest end | runs that left | most | processes | next |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
