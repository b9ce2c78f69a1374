"""An evaluation with made-up figures, for tests of how it is shown and recorded."""

from __future__ import annotations

from dataclasses import replace

from effsam_export.evaluate.results import (
    Annotations,
    Evaluated,
    Evaluation,
    Measurement,
    Reference,
    Result,
)
from effsam_export.util.machine import Machine

ALL = Result(prompt="box", size="all", objects=3, miou=0.75, interval=(0.5, 0.9))
LARGE = Result(prompt="box", size="large", objects=1, miou=0.8, interval=None)
MEASUREMENTS = tuple(
    Measurement(prompt="box", image=n, size="large", iou=iou) for n, iou in enumerate((0.6, 0.8, 1))
)
ALONE = Evaluated(
    bundle="dist/mobile-sam-onnx-fp32",
    model="mobile-sam",
    target="onnx",
    precision="fp32",
    runtime="onnxruntime 1.31.1",
    simulator="",
    images_per_second=2.5,
    reference=None,
    notes=(),
    results=(ALL, LARGE),
    measurements=MEASUREMENTS,
)
BESIDE = replace(
    ALONE,
    bundle="dist/mobile-sam-coreml-fp16",
    target="coreml",
    precision="fp16",
    simulator="an evaluator",
    images_per_second=None,
    reference=Reference(file="mobile_sam.pt", sha256="c" * 64, images_per_second=0.5),
    notes=("its speed was not measured",),
    results=(
        replace(
            ALL,
            miou=0.7,
            reference_miou=0.72,
            difference=-0.02,
            difference_interval=(-0.03, -0.01),
            agreement=0.99,
            min_agreement=0.95,
            best_mask_changes=0.125,
        ),
    ),
    measurements=tuple(replace(m, reference_iou=0.5, agreement=1.0) for m in MEASUREMENTS),
)
EVALUATION = Evaluation(
    annotations=Annotations(
        file="instances.json",
        sha256="d" * 64,
        shipped=False,
        images=3,
        objects=3,
        crowds=2,
        empty=1,
        limit=3,
    ),
    prompts=("box",),
    seed=7,
    machine=Machine(
        cpu="AMD EPYC 7B13", cores=2, cpu_flags=("avx2",), system="Linux x86_64", python="3.11.7"
    ),
    bundles=(ALONE, BESIDE),
)
