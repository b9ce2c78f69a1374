"""Builds on a cluster of local processes: equal bundles, lost workers, a scheduler that is cut."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from effsam_export.bundle import read
from tests.matrix.builds import build, children_of, link_stages
from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.importorskip("distributed")
pytestmark = pytest.mark.backend
LOST = "lost the workers or their scheduler"


class Farm:
    """A scheduler and workers, each a process of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.processes: list[subprocess.Popen[bytes]] = []
        self.file = place / "scheduler.json"
        self._start(
            "-m",
            "distributed.cli.dask_scheduler",
            "--scheduler-file",
            str(self.file),
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
        )
        self._wait(self.file.is_file)

    @property
    def address(self) -> str:
        import json

        return str(json.loads(self.file.read_text("utf-8"))["address"])

    def worker(self) -> subprocess.Popen[bytes]:
        log = self.place / f"worker{len(self.processes)}.log"
        process = self._start(
            "-m", "effsam_export", "worker", "--scheduler", self.address, "--memory", "50", log=log
        )
        self._wait(lambda: b": backends " in log.read_bytes())
        from distributed import Client

        wanted = len(self.processes) - 1
        with Client(self.address, set_as_default=False) as client:  # type: ignore[no-untyped-call]
            client.wait_for_workers(wanted, timeout=60)
        return process

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _start(self, *command: str, log: Path | None = None) -> subprocess.Popen[bytes]:
        paths = [str(self.place / "startup"), str(REPOSITORY)]
        sink = (log or self.place / "scheduler.log").open("wb")
        with sink:
            process = subprocess.Popen(
                [sys.executable, *command],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def _wait(self, ready: object) -> None:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            if ready():  # type: ignore[operator]
                return
            time.sleep(0.1)
        logs = [p.read_text("utf-8", "replace") for p in self.place.glob("*.log")]
        raise AssertionError("\n".join(logs))


@pytest.fixture
def farm(untraced: Path) -> Iterator[Farm]:
    made = Farm(untraced)
    try:
        yield made
    finally:
        made.stop()


@pytest.mark.slow
def test_a_cluster_makes_the_same_bytes_as_this_machine(
    untraced: Path, farm: Farm, small_stages: Path
) -> None:
    place = untraced
    farm.worker()
    code, found, messages = build(place, "--scheduler", farm.address)
    assert code == 0, messages
    assert found["converted"] == 2
    names = ("small-sam-onnx-fp32", "small-sam-onnx-fp16")
    far = {n: lasting(place / "dist" / n) for n in names}
    # What the cluster made is what this machine would make: nothing is left to do.
    code, found, _ = build(place)
    assert (code, found["converted"]) == (0, 0)
    # Here of stages that this machine made, and not the worker.
    near = place / "cache2"
    link_stages(small_stages, near, "small-sam")
    code, found, _ = build(place, "--cache-dir", str(near), "--output", str(place / "near"))
    assert (code, found["converted"]) == (0, 2)
    for name in names:
        assert lasting(place / "near" / name) == far[name]


def lasting(bundle: Path) -> dict[str, Any]:
    """Return the manifest of a bundle without its report, which holds latencies."""
    manifest = read.read(bundle).manifest
    return {**manifest, "files": [e for e in manifest["files"] if e["role"] != "report"]}


@pytest.mark.slow
def test_a_lost_worker_is_made_up_for(place: Path, farm: Farm) -> None:
    first = farm.worker()

    def lose() -> None:
        # The second comes before the first goes, in the middle of its work.
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not children_of(first.pid, "job.json"):
            time.sleep(0.1)
        os.killpg(first.pid, signal.SIGKILL)

    farm.worker()
    thread = threading.Thread(target=lose)
    thread.start()
    code, found, messages = build(place, "--scheduler", farm.address)
    thread.join()
    assert first.wait() == -signal.SIGKILL
    assert code == 0, messages
    assert found["converted"] == 2
    for name in ("small-sam-onnx-fp32", "small-sam-onnx-fp16"):
        assert read.integrity(read.read(place / "dist" / name)) == ()


def test_the_only_worker_is_lost_and_nothing_waits_for_ever(place: Path, farm: Farm) -> None:
    worker = farm.worker()

    def lose() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not children_of(worker.pid, "job.json"):
            time.sleep(0.1)
        os.killpg(worker.pid, signal.SIGKILL)

    thread = threading.Thread(target=lose)
    thread.start()
    code, found, messages = build(place, "--scheduler", farm.address)
    thread.join()
    assert code == 1, messages
    assert all(LOST in c["message"] for c in found["cells"])
    assert list((place / "cache" / "build" / "work").iterdir()) == []


@pytest.mark.slow
def test_a_scheduler_that_is_cut_ends_the_build_and_loses_nothing(place: Path, farm: Farm) -> None:
    worker = farm.worker()
    scheduler = farm.processes[0]

    def cut() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not children_of(worker.pid, "job.json"):
            time.sleep(0.1)
        os.killpg(scheduler.pid, signal.SIGKILL)

    thread = threading.Thread(target=cut)
    thread.start()
    code, found, messages = build(place, "--scheduler", farm.address)
    thread.join()
    assert code == 1, messages
    assert {c["state"] for c in found["cells"]} == {"failed"}
    assert all(LOST in c["message"] for c in found["cells"])
    assert [p.name for p in (place / "dist").iterdir() if not p.name.endswith(".failed")] == []
    assert list((place / "cache" / "build" / "work").iterdir()) == []
    code, found, _ = build(place)
    assert (code, found["converted"]) == (0, 2)
