"""Every model through the command line: export to a target, segment an image, verify.

`python -m benchmarks.systems [MODEL ...] [--target onnx] [--json NAME]` makes a checkpoint from
the authors' manifests for each (`benchmarks/golden_checkpoints.py`), runs `effsam export`,
`effsam run` and `effsam verify` in processes of their own, and prints a table of wall time, peak
memory and size. It fails if any of them fails.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import golden_checkpoints, machine

ROOT = Path(__file__).resolve().parents[1]
PHOTO = ROOT / "calibration" / "images" / "coffee.jpg"
PROMPT = ("--point", "280,140")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one model took.

    Attributes:
        export_s: Life of the `effsam export` process, parity included, in seconds.
        peak_bytes: Its largest resident memory.
        bytes: Files an app ships.
        min_iou: Minimum mask IoU with PyTorch over all prompts, end to end.
        prompts: Number of prompts.
        run_s: Life of the `effsam run` process for one prompt.
        problem: First line of the error, or empty.
    """

    model: str
    export_s: float
    peak_bytes: int
    bytes: int
    min_iou: float | None
    prompts: int
    run_s: float
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A process that ended."""

    code: int
    out: str
    err: str
    wall_s: float
    peak_bytes: int


def start(command: list[str], directory: Path) -> Finished:
    """Run a command to its end, and note its own peak memory."""
    out, err = directory / "out.txt", directory / "err.txt"
    begin = time.perf_counter()
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        # `wait4` went past `Popen`, which would warn of a process that it thinks is still running.
        process.returncode = os.waitstatus_to_exitcode(status)
    return Finished(
        code=process.returncode,
        out=out.read_text("utf-8"),
        err=err.read_text("utf-8"),
        wall_s=time.perf_counter() - begin,
        peak_bytes=usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    )


def measure(model: str, target: str, directory: Path, golden: Path) -> Row:
    """Take one model from a checkpoint to masks."""
    checkpoint, bundle = directory / f"{model}.pt", directory / model
    made = start(
        [
            *(sys.executable, "-m", "benchmarks.golden_checkpoints", model, str(checkpoint)),
            *("--golden", str(golden)),
        ],
        directory,
    )
    if made.code:
        raise SystemExit(made.err)
    effsam = [sys.executable, "-m", "effsam_export"]
    exported = start(
        [
            *(*effsam, "export", model, "--checkpoint", str(checkpoint), "--target", target),
            *("--output", str(bundle), "--accept-license", "--json", "--quiet"),
            *("--no-cache", "--cache-dir", str(directory / "cache")),
        ],
        directory,
    )
    if exported.code:
        return _failed(model, exported)
    document = json.loads(exported.out)
    ran = start([*effsam, "run", str(bundle), str(PHOTO), *PROMPT, "--json"], directory)
    verified = start([*effsam, "verify", str(bundle), "--level", "golden", "--quiet"], directory)
    for finished in (ran, verified):
        if finished.code:
            return _failed(model, finished)
    ious = [case["min_iou"] for case in document["cases"]]
    return Row(
        model=model,
        export_s=exported.wall_s,
        peak_bytes=exported.peak_bytes,
        bytes=shipped(bundle),
        min_iou=min(ious),
        prompts=len(ious),
        run_s=ran.wall_s,
    )


def _failed(model: str, finished: Finished) -> Row:
    lines = [x for x in finished.err.splitlines() if x.startswith("error:")]
    return Row(
        model=model,
        export_s=finished.wall_s,
        peak_bytes=finished.peak_bytes,
        bytes=0,
        min_iou=None,
        prompts=0,
        run_s=0.0,
        problem=lines[0] if lines else (finished.err.splitlines() or ["no output"])[-1],
    )


def shipped(bundle: Path) -> int:
    """Bytes of the files with the role `artifact`."""
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    return sum(f["size"] for f in manifest["files"] if f["role"] == "artifact")


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| model | export, s | peak, MB | ships, MB | prompts | min mask IoU | run, s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in rows:
        iou = r.problem or f"{r.min_iou:.6f}"
        lines.append(
            f"| `{r.model}` | {r.export_s:.0f} | {r.peak_bytes / 1e6:.0f} | {r.bytes / 1e6:.1f} "
            f"| {r.prompts} | {iou} | {r.run_s:.1f} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measure the models that were named, or all."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("models", nargs="*", choices=[*golden_checkpoints.VARIANTS, []])
    parser.add_argument("--target", default="onnx")
    parser.add_argument("--golden", type=Path, default=golden_checkpoints.golden_dir())
    parser.add_argument("--json", metavar="NAME", help="write results/NAME.json")
    args = parser.parse_args(argv)
    rows = []
    for model in args.models or golden_checkpoints.VARIANTS:
        # A folder each, so that disks need room for one model only.
        with tempfile.TemporaryDirectory() as directory:
            rows.append(measure(model, args.target, Path(directory), args.golden))
        print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
        if args.json:
            write(rows, args.target, args.json)
    print(table(rows))
    if any(r.problem for r in rows):
        raise SystemExit(1)


def write(rows: list[Row], target: str, name: str) -> None:
    """Keep the figures with the machine they were taken on."""
    document: dict[str, Any] = {
        "machine": machine.describe(),
        "target": target,
        "rows": [asdict(r) for r in rows],
    }
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    path.write_text(json.dumps(document, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
