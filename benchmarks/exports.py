"""Each export in a process of its own, one after the other: wall time and peak memory.

`python -m benchmarks.exports KIND --checkpoint FILE --output DIR` is the child; `run_all` starts
one per kind. The parent must not have loaded torch yet, so that it does not compete for memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from effsam_export.util.machine import peak_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.stages import Checkpoint

UPSTREAM = "upstream-style"
KINDS: dict[str, tuple[str, str] | None] = {
    # kind -> target profile and precision; None is the upstream-style export
    UPSTREAM: None,
    "onnx-fp32": ("onnx", "fp32"),
    "openvino-fp32": ("openvino", "fp32"),
    "openvino-fp16": ("openvino", "fp16"),
}
WHOLE = "effsam-export"
"""The whole `pipeline.export` to ONNX FP32: with the parity check and the bundle."""

MODEL = "mobile-sam"
RESULT_PREFIX = "result: "


@dataclass(frozen=True, kw_only=True)
class ExportCost:
    """What one export took.

    Attributes:
        wall_s: Life of the process in seconds: start, imports, both components.
        work_s: Seconds of it after the imports: load, trace, write.
        peak_bytes: Largest resident memory of the process.
        encoder_bytes: Size of the encoder's files.
        decoder_bytes: Size of the decoder's files.
    """

    kind: str
    wall_s: float
    work_s: float
    peak_bytes: int
    encoder_bytes: int
    decoder_bytes: int


def run_all(checkpoint: Path, output: Path, kinds: tuple[str, ...]) -> list[ExportCost]:
    """Run the exports in turn, each into `output/<kind>`, and say what each took."""
    costs = []
    for kind in kinds:
        print(f"export {kind} ...", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "benchmarks.exports", kind]
        command += ["--checkpoint", str(checkpoint), "--output", str(output / kind)]
        start = time.perf_counter()
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[1]
        )
        wall = time.perf_counter() - start
        line = next(x for x in done.stdout.splitlines() if x.startswith(RESULT_PREFIX))
        costs.append(ExportCost(kind=kind, wall_s=wall, **json.loads(line[len(RESULT_PREFIX) :])))
    return costs


def files_of(directory: Path, component: str) -> list[Path]:
    """The files of one component in an export's directory."""
    return sorted(directory.glob(f"{component}.*"))


def main(argv: list[str] | None = None) -> None:
    """Make one export and print what it took as a line of JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("kind", choices=[*KINDS, WHOLE])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    output: Path = args.output
    from effsam_export import models
    from effsam_export.weights import own_file

    spec = models.get(MODEL)
    work = _prepare(args.kind, spec)
    start = time.perf_counter()
    work(own_file.checkpoint_from_file(args.checkpoint, spec.weights), output)
    taken = time.perf_counter() - start
    sizes = {
        f"{name}_bytes": sum(p.stat().st_size for p in files_of(output, name))
        for name in ("encoder", "decoder")
    }
    print(RESULT_PREFIX + json.dumps({"work_s": taken, "peak_bytes": peak_bytes(), **sizes}))


def _prepare(kind: str, spec: ModelSpec) -> Callable[[Checkpoint, Path], None]:
    """Import all that a kind needs, and return the work itself."""
    if kind == WHOLE:
        return _prepare_whole(spec)
    from effsam_export.models.sam.components import as_sam
    from effsam_export.weights import checkpoint as loading

    choice = KINDS[kind]
    write = _prepare_upstream() if choice is None else _prepare_ours(spec, *choice)

    def work(checkpoint: Checkpoint, output: Path) -> None:
        output.mkdir(parents=True, exist_ok=True)
        write(as_sam(loading.load(spec, checkpoint)), output)

    return work


def _prepare_upstream() -> Callable[[nn.Module, Path], None]:
    from benchmarks import upstream
    from effsam_export.models.sam.components import as_sam

    def write(module: nn.Module, output: Path) -> None:
        upstream.export_encoder(as_sam(module), output)
        upstream.export_decoder(as_sam(module), output)

    return write


def _prepare_ours(
    spec: ModelSpec, target_name: str, precision: str
) -> Callable[[nn.Module, Path], None]:
    from effsam_export import backends
    from effsam_export.config import targets as profiles
    from effsam_export.graph import passes, trace

    target = profiles.load_target(target_name, precision)
    backend = backends.load(target.backend)

    def write(module: nn.Module, output: Path) -> None:
        sources = output / "source"
        sources.mkdir(exist_ok=True)
        for component in spec.components:
            program = trace.trace(module, component)
            graph = trace.to_onnx(program, component, target.opset, sources)
            backend.lower(passes.rewrite(graph, target, sources), target, output)

    return write


def _prepare_whole(spec: ModelSpec) -> Callable[[Checkpoint, Path], None]:
    import torch  # noqa: F401 - so that its import is not counted as work

    from effsam_export.config import targets as profiles
    from effsam_export.pipeline import run as pipeline
    from effsam_export.pipeline.request import ExportRequest

    target = profiles.load_target("onnx", "fp32")

    def work(checkpoint: Checkpoint, output: Path) -> None:
        pipeline.export(
            ExportRequest(
                model=spec, target=target, checkpoint=checkpoint, output=output, force=True
            )
        )

    return work


if __name__ == "__main__":
    main()
