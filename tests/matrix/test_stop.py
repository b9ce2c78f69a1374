"""An interrupted build ends its workers within seconds and leaves nothing of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from effsam_export.matrix import run, worker
from effsam_export.matrix.run import Event, Limits
from tests.matrix.test_run import Workshop

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

WORKERS = {
    "polite": "import time; time.sleep(120)",
    "deaf": "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(120)",
}


@pytest.mark.parametrize("kind", WORKERS)
def test_workers_end_with_the_build(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "CHILD_CODE", WORKERS[kind])
    monkeypatch.setattr(worker, "GRACE_S", 0.5)
    shop = Workshop(tmp_path)
    processes: list[subprocess.Popen[bytes]] = []
    interrupted: list[float] = []

    def interrupt(event: Event) -> None:
        shop.events.append(event)
        if len(shop.events) == 2:
            while not worker.RUNNING:
                time.sleep(0.01)
            time.sleep(0.5)
            processes.extend(w.process for w in worker.RUNNING)
            interrupted.append(time.monotonic())
            raise KeyboardInterrupt

    limits = Limits(jobs=2, memory_mb=1e9)
    with pytest.raises(KeyboardInterrupt):
        run.run(shop.plan(limits), shop.store, tmp_path / "dist", limits, interrupt)
    assert time.monotonic() - interrupted[0] < 10
    assert processes
    assert all(p.poll() is not None for p in processes)
    assert not worker.RUNNING
    assert list((shop.store.root / "work").iterdir()) == []
    # A worker that was stopped is no failed export.
    assert not (tmp_path / "dist").exists() or list((tmp_path / "dist").iterdir()) == []
