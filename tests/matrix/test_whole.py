"""`effsam build` with real workers, on the small model: made, cached, killed, gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from effsam_export.bundle import read
from effsam_export.matrix import worker
from effsam_export.matrix.worker import Job
from effsam_export.matrix.worker import run as run_worker
from tests.matrix.builds import build, children_of
from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from effsam_export.matrix.worker import Outcome

pytestmark = pytest.mark.backend


def test_a_matrix_is_built_once_and_then_comes_from_the_cache(untraced: Path) -> None:
    place = untraced
    report, table = place / "junit.xml", place / "summary.md"
    code, found, messages = build(
        place, "--junit", str(report), "--markdown", str(table), "-j", "2", "--verbose"
    )
    assert code == 0, messages
    # What each worker logs comes with the name of its cell.
    for name in ("small-sam-onnx-fp32", "small-sam-onnx-fp16"):
        assert f"  | {name}: target onnx: " in messages
        assert f"  | {name}: finished trace encoder, " in messages
    assert found["converted"] == 2
    cells = {c["name"]: c for c in found["cells"]}
    assert set(cells) == {"small-sam-onnx-fp32", "small-sam-onnx-fp16"}
    for name, cell in cells.items():
        bundle = read.read(place / "dist" / name)
        assert read.integrity(bundle) == ()
        assert bundle.manifest["precision"]["requested"] == name[-4:]
        assert cell["state"] == "verified"
        # A process with torch in it.
        assert cell["peak_mb"] > 100
    # Encoder and decoder were traced once for both, and lowered for each.
    made = (place / "cache" / "build" / "stages").glob("*/made.json")
    followed = [json.loads(path.read_text("utf-8"))["parts"] for path in made]
    assert sorted((p["stage"], p["component"], p.get("precision", "")) for p in followed) == [
        ("lower", "decoder", "fp16"),
        ("lower", "decoder", "fp32"),
        ("lower", "encoder", "fp16"),
        ("lower", "encoder", "fp32"),
        ("trace", "decoder", ""),
        ("trace", "encoder", ""),
    ]
    assert report.read_text("utf-8").count("<testcase") == 2
    assert "2 cells: 2 built" in table.read_text("utf-8")

    before = {p: p.stat().st_mtime_ns for p in (place / "dist").rglob("*") if p.is_file()}
    code, found, messages = build(place)
    assert (code, found["converted"]) == (0, 0)
    assert "nothing was converted" in messages
    assert before == {p: p.stat().st_mtime_ns for p in (place / "dist").rglob("*") if p.is_file()}


def test_a_plan_lists_the_cells_to_build(place: Path) -> None:
    code, found, _ = build(place, "--plan")
    assert code == 0
    matrix = found["matrix"]
    assert matrix == {
        "include": [
            {"name": n, "model": "small-sam", "target": "onnx", "precision": n[-4:]}
            for n in ("small-sam-onnx-fp32", "small-sam-onnx-fp16")
        ]
    }
    assert not (place / "dist").exists()


def test_a_missed_gate_is_one_failed_cell_with_its_evidence(place: Path) -> None:
    from effsam_export.config.toml import data_dir

    text = (data_dir("targets") / "onnx.toml").read_text("utf-8")
    strict = text.replace("mask_iou = 0.99, score_error = 0.01", "mask_iou = 1, score_error = 0")
    assert strict != text
    (place / "strict.toml").write_text(strict, "utf-8")
    file = place / "effsam.toml"
    file.write_text(file.read_text("utf-8").replace('"onnx"', '"strict.toml"'), "utf-8")
    code, found, messages = build(place)
    assert code == 1
    good, bad = found["cells"]
    assert (good["state"], bad["state"]) == ("verified", "failed")
    assert "want 1 (" in bad["message"]
    evidence = Path(bad["evidence"])
    assert {"log.txt", "parity.json", "report.html"} <= {p.name for p in evidence.iterdir()}
    assert not (place / "dist" / "small-sam-strict-fp16").exists()
    assert "2 cells: 1 built, 0 from the cache, 1 failed" in messages


@pytest.mark.slow
def test_a_worker_that_is_killed_leaves_nothing_and_the_build_goes_on(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []

    def killing(job: Job, scratch: Path) -> Outcome:
        if job.precision != "fp32" or killed:
            return run_worker(job, scratch)

        def kill() -> None:
            # In the middle of its work: once it has said that a stage is done.
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline:
                log = scratch / "log.txt"
                if log.is_file() and "finished" in log.read_text("utf-8", "replace"):
                    break
                time.sleep(0.05)
            for child in children_of(os.getpid(), str(scratch)):
                killed.append(child)
                os.kill(child, signal.SIGKILL)

        watcher = threading.Thread(target=kill)
        watcher.start()
        outcome = run_worker(job, scratch)
        watcher.join()
        return outcome

    monkeypatch.setattr(worker, "run", killing)
    code, found, _ = build(place)
    assert killed
    assert code == 1
    first, second = found["cells"]
    assert (first["state"], second["state"]) == ("failed", "verified")
    assert "the worker was killed" in first["message"]
    assert not (place / "dist" / "small-sam-onnx-fp32").exists()
    assert list((place / "cache" / "build" / "work").iterdir()) == []
    code, found, _ = build(place)
    assert (code, found["converted"]) == (0, 1)


@pytest.mark.slow
def test_a_build_that_is_killed_is_gone_on_with(place: Path) -> None:
    startup = f"{place / 'startup'}{os.pathsep}{REPOSITORY}"
    command = [sys.executable, "-m", "effsam_export", "build", str(place / "effsam.toml")]
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": startup},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    bundles = place / "cache" / "build" / "bundles"
    deadline = time.monotonic() + 300
    # The first cell is done, the second at work.
    while process.poll() is None and time.monotonic() < deadline:
        if bundles.is_dir() and any(bundles.iterdir()):
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    code, found, _ = build(place)
    assert code == 0
    assert found["converted"] == 1
    for name in ("small-sam-onnx-fp32", "small-sam-onnx-fp16"):
        assert read.integrity(read.read(place / "dist" / name)) == ()
    assert list((place / "cache" / "build" / "work").iterdir()) == []
    assert [p for p in (place / "dist").iterdir() if p.name.startswith(".")] == []
