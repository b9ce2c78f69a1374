"""A benchmark with made-up figures, for tests of how it is shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from effsam_export.bench.results import Benchmark, Latency, Measured
from effsam_export.bench.subjects import Subject
from effsam_export.util.machine import Machine

ONNX = Subject(
    name="dist/mobile-sam-onnx-fp32",
    path=Path("/bundles/onnx"),
    model="mobile-sam",
    target="onnx",
    precision="fp32",
    components=("encoder", "decoder"),
    runtime="onnxruntime 1.31.1",
    threads=None,
    prompts_per_call=None,
    bytes=44_600_000,
)
TFLITE = replace(
    ONNX,
    name="dist/mobile-sam-tflite-fp32",
    target="tflite",
    runtime="ai-edge-litert 2.3.0",
    threads=4,
    prompts_per_call=1,
)
COREML = replace(
    ONNX,
    name="dist/mobile-sam-coreml-fp16.effsam.zip",
    target="coreml",
    precision="fp16",
    runtime="coremltools 9.0",
    prompts_per_call=1,
    bytes=22_300_000,
    obstacle="its runtime does not run on this machine, only its simulator (an evaluator)",
)


def measured(subject: Subject, factor: float) -> Measured:
    """Figures that are a multiple of round ones."""
    seconds = {"encoder": 0.4, "prompts_1": 0.03, "prompts_8": 0.1, "prompts_64": 0.9}
    return Measured(
        subject=subject,
        latencies={
            task: Latency(p50_s=factor * s, p90_s=1.1 * factor * s, minimum_s=0.9 * factor * s)
            for task, s in {**seconds, "first_mask": 0.45}.items()
        },
        open_s=0.3 * factor,
        one_prompt_bytes=400_000_000,
        peak_bytes=900_000_000,
    )


BENCHMARK = Benchmark(
    machine=Machine(
        cpu="AMD EPYC 7B13 64-Core Processor of a long name",
        cores=2,
        cpu_flags=("avx2",),
        system="Linux x86_64",
        python="3.11.7",
    ),
    image="coffee.jpg",
    width=600,
    height=400,
    warm_up=2,
    repeats=10,
    threads=None,
    bundles=(measured(ONNX, 1.0), measured(TFLITE, 2.0), Measured(subject=COREML)),
)
