"""Time the whole matrix by `effsam build`: wall time, memory, failures, and a second build.

`python -m benchmarks.builds [MODEL ...] [--target T ...] [--precision P ...] [--jobs N]
[--workers N] [--weights DIR] [--json NAME]`. Each model is one build from an empty cache, with
the weights in `--weights` or deterministic ones, evaluated on the prompts of the first image. Then
its successful cells are built again, which must not convert anything. The bundles are deleted,
because together they would fill a disk. `--workers` builds on a Dask cluster of that many local
processes. Models that `--json` contains are not built again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import tomli_w

from benchmarks import golden_checkpoints, machine
from benchmarks.matrix import PRECISIONS, PROMPTS, ROOT, TARGETS
from effsam_export import models
from effsam_export.config.parity import load_parity_images
from effsam_export.config.toml import data_dir, read_toml
from effsam_export.parity.evaluation_set import supported_cases

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGE = ("sam-vit-l", "sam-vit-h", "expedit-sam-vit-l", "expedit-sam-vit-h")
"""Models that are only built if they are named."""
SAMPLE_S = 0.5
"""Minimum time between two memory measurements."""
SHARE = 0.02
"""Share of a core for memory measurements: counting shared pages is slow."""


class Memory:
    """The most memory that this process's children took together, in MB of 1e6 bytes.

    Pages that several share are counted once (PSS).
    """

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        pause = SAMPLE_S
        while not self._done.wait(pause):
            began = time.thread_time()
            total = sum(map(pss, psutil.Process().children(recursive=True)))
            self.peak_mb = max(self.peak_mb, total / 1e6)
            pause = max(SAMPLE_S, (time.thread_time() - began) / SHARE)


def pss(process: psutil.Process) -> int:
    """Return the memory of a process with its part of shared pages (PSS); 0 if it has ended."""
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def prepare(model: str, args: argparse.Namespace, folder: Path) -> Path:
    """Write the checkpoint, evaluation images and build file of one model."""
    checkpoint = folder / f"{model}.pt"
    given = args.weights / checkpoint.name if args.weights else None
    if given is not None and given.is_file():
        shutil.copyfile(given, checkpoint)
    else:
        golden_checkpoints.write_checkpoint(model, checkpoint, args.golden)
    images, _ = supported_cases(load_parity_images(None)[:1], models.get(model).prompts)
    photo = images[0].path
    (folder / photo.name).write_bytes(photo.read_bytes())
    names = PROMPTS & {case.name for case in images[0].cases}
    prompts_of = read_toml(data_dir("calibration") / "parity.toml")["images"][0]
    rows = [p for p in prompts_of["prompts"] if p["name"] in names]
    parity = {"images": [{"file": photo.name, "prompts": rows}]}
    (folder / "parity.toml").write_text(tomli_w.dumps(parity), "utf-8")
    file = folder / "effsam.toml"
    file.write_text(
        tomli_w.dumps(
            {
                "models": [model],
                "targets": list(args.target),
                "precisions": list(args.precision),
                "output": "dist",
                "parity": "parity.toml",
                "checkpoints": {model: checkpoint.name},
                "options": {"tensorrt-rtx": {"compute_capabilities": "86"}},
            }
        ),
        "utf-8",
    )
    return file


@contextmanager
def cluster(workers: int, folder: Path) -> Iterator[list[str]]:
    """Start a scheduler with local workers; yield the options of a build, none without workers."""
    if not workers:
        yield []
        return
    place = folder / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard"]
    command += ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(place)]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen(command, **quiet)]
    try:
        while not place.is_file():
            time.sleep(0.2)
        address = json.loads(place.read_text("utf-8"))["address"]
        room = str(psutil.virtual_memory().available / workers / 1e9)
        command = [sys.executable, "-m", "effsam_export", "worker", "--scheduler", address]
        for number in range(workers):
            # Each has a cache of its own, as on a machine of its own.
            own = {**os.environ, "EFFSAM_CACHE_DIR": str(folder / f"worker-{number}")}
            processes.append(subprocess.Popen([*command, "--memory", room], env=own, **quiet))
        from distributed import Client

        with Client(address, set_as_default=False) as client:  # type: ignore[no-untyped-call]
            client.wait_for_workers(workers, timeout=120)
        yield ["--scheduler", address]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def build(file: Path, options: list[str]) -> dict[str, Any]:
    """Run `effsam build`; return its summary, the time of each cell, and the peak memory."""
    command = [sys.executable, "-m", "effsam_export", "build", str(file)]
    command += ["--json", "--accept-license", *options]
    environment = {**os.environ, "EFFSAM_CACHE_DIR": str(file.parent / "cache")}
    began, done_at = time.perf_counter(), {}
    with (
        Memory() as memory,
        subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith(("✓", "✗")):
                done_at[line.split()[1]] = round(time.perf_counter() - began, 1)
                print(line.rstrip(), file=sys.stderr, flush=True)
        text = process.stdout.read()
    if not text:
        raise SystemExit("".join(said))
    found = json.loads(text)
    keys = ("target", "precision", "state", "min_iou", "mean_iou", "seconds", "peak_mb")
    return {
        "wall_s": round(time.perf_counter() - began, 1),
        "peak_mb": round(memory.peak_mb),
        "converted": found["converted"],
        "cells": [
            {
                **{key: cell[key] for key in keys},
                "done_at_s": done_at.get(cell["name"]),
                "message": (cell["message"] or "").splitlines()[:2],
            }
            for cell in found["cells"]
        ],
    }


def measure(model: str, args: argparse.Namespace) -> dict[str, Any]:
    """Build one model from an empty cache, then its successful cells again."""
    with tempfile.TemporaryDirectory(dir=args.work) as name:
        folder = Path(name)
        file = prepare(model, args, folder)
        options = ["--jobs", str(args.jobs)]
        with cluster(args.workers, folder) as scheduler:
            first = build(file, scheduler or options)
            good = [c for c in first["cells"] if c["state"] in ("verified", "simulated")]
            only = [f"--only={model}-{c['target']}-{c['precision']}" for c in good]
            again = build(file, [*(scheduler or options), *only]) if good else None
    return {
        "model": model,
        "jobs": args.jobs if not args.workers else None,
        "workers": args.workers,
        **first,
        "failed": len(first["cells"]) - len(good),
        "again": None if again is None else {k: again[k] for k in ("wall_s", "converted")},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the builds as a Markdown table."""
    lines = [
        "| model | cells | failed | with | wall, s | a cell, s | peak, GB | again, s | converted |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in rows:
        again = r["again"] or {"wall_s": 0.0, "converted": 0}
        how = f"{r['workers']} Dask workers" if r["workers"] else f"{r['jobs']} jobs"
        lines.append(
            f"| `{r['model']}` | {len(r['cells'])} | {r['failed']} | {how} | {r['wall_s']:.0f} "
            f"| {r['wall_s'] / len(r['cells']):.0f} | {r['peak_mb'] / 1000:.1f} "
            f"| {again['wall_s']:.0f} | {again['converted']} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Build the requested models that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    every = [m for m in golden_checkpoints.VARIANTS if m not in LARGE]
    parser.add_argument("models", nargs="*", choices=[*golden_checkpoints.VARIANTS, []])
    parser.add_argument("--target", nargs="+", default=TARGETS)
    parser.add_argument("--precision", nargs="+", default=(*PRECISIONS, "int8"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0, help="of a Dask cluster; 0: none")
    parser.add_argument("--golden", type=Path, default=golden_checkpoints.golden_dir())
    parser.add_argument("--weights", type=Path, help="folder of MODEL.pt files to prefer")
    parser.add_argument("--work", type=Path, help="folder for bundles, some 20 GB [default: /tmp]")
    parser.add_argument("--json", metavar="NAME", help="keep the figures in results/NAME.json")
    args = parser.parse_args(argv)
    path = ROOT / "benchmarks" / "results" / f"{args.json}.json" if args.json else None
    known = json.loads(path.read_text("utf-8"))["builds"] if path and path.is_file() else []
    # As many cells in another way are another build.
    same = ("model", "jobs", "workers")
    jobs = None if args.workers else args.jobs
    for model in args.models or every:
        if any([r[k] for k in same] == [model, jobs, args.workers] for r in known):
            continue
        known.append(measure(model, args))
        if path:
            document = {"machine": machine.describe(), "builds": known}
            path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    print(table(known))


if __name__ == "__main__":
    main()
