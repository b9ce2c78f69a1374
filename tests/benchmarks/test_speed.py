"""The benchmark of speed: contenders are called alike, and the report divides the right times."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from benchmarks import speed, speed_peak, speed_report
from benchmarks.speed_contenders import (
    OURS,
    PLAIN,
    UPSTREAM,
    Contender,
    PlainSession,
    UpstreamSession,
    ours,
)
from effsam_export.models.costs import COSTS
from tests.small import SMALL_SAM, build

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.models.sam.module import Sam
    from effsam_export.spec.stages import Checkpoint
    from effsam_export.spec.tensors import Feeds

pytestmark = pytest.mark.backend
ABOUT = {
    "cpu": "Some CPU",
    "cores": 2,
    "flags": ["avx2"],
    "load_average_1min": 0.1,
    "versions": {"torch": "2", "openvino": None},
}


@pytest.fixture(scope="module")
def sam() -> Sam:
    from effsam_export.models.sam.components import as_sam

    return as_sam(build())


@pytest.fixture(scope="module")
def work(sam: Sam) -> speed.Work:
    return speed.prepare(SMALL_SAM, sam)


def plain_of(sam: Sam, calls: list[int]) -> Contender:
    """The authors' forward pass itself behind the adapter of plain conversions."""

    def run(values: list[torch.Tensor]) -> list[torch.Tensor]:
        calls.append(len(values[0]))
        with torch.inference_mode():
            if len(values) == 1:
                return [sam.encode(values[0])]
            embedding, coords, labels = values
            assert coords.shape == (1, 1, 2)
            assert labels.shape == (1, 1)
            return list(sam.decode(embedding, (coords, labels), None, None))

    session = PlainSession(SMALL_SAM, run)
    return Contender(
        kind=PLAIN,
        runtime="onnx",
        precision="fp32",
        model=SMALL_SAM,
        encoder=session,
        decoder=session,
        bytes=10,
    )


def test_the_authors_forward_pass_agrees_with_pytorch(sam: Sam, work: speed.Work) -> None:
    assert len(work.prompts) == 64
    assert speed.agreement(plain_of(sam, []), work) == (1.0, 1.0)
    inverted = {i: ~mask for i, mask in work.expected.items()}
    assert speed.agreement(plain_of(sam, []), replace(work, expected=inverted)) == (0.0, 0.0)


def test_every_task_is_timed_for_every_contender(
    sam: Sam, work: speed.Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(COSTS, SMALL_SAM.name, COSTS["mobile-sam"])
    monkeypatch.setattr(speed, "PROMPTS", (1, 8))
    monkeypatch.setattr(speed_peak, "SIDE", 8)
    monkeypatch.setattr(speed, "interleave", lambda calls, *_, **__: interleaved(calls))
    calls: list[int] = []
    half = replace(plain_of(sam, []), runtime="tflite", decoder=None, problem="no converter")
    rows = speed.measure([plain_of(sam, calls), half], work, 3, with_everything=False)
    timed = [(r.task, r.runtime) for r in rows if r.median_s is not None]
    assert timed == [
        ("encoder", "onnx"),
        ("encoder", "tflite"),
        ("peak", "GEMM"),
        ("peak", "convolution"),
        ("decoder, 1 prompt", "onnx"),
        ("decoder, 8 prompts", "onnx"),
        ("first mask", "onnx"),
    ]
    assert [(r.task, r.problem) for r in rows if r.median_s is None] == [
        (task, "no converter") for task in ("decoder, 1 prompt", "decoder, 8 prompts", "first mask")
    ]
    assert all(r.mean_iou == 1.0 for r in rows if r.task != "peak" and not r.problem)
    assert rows[0].gflops == pytest.approx(2e-9 * COSTS["mobile-sam"].encoder_macs / 2.0)
    assert rows[2].gflops == pytest.approx(1e-9 * speed_peak.FLOPS["GEMM"])


def interleaved(calls: dict[str, Any]) -> dict[str, Any]:
    """Call each once, and say that it took two seconds, and one at least."""
    from effsam_export.util.timing import Latency

    for call in calls.values():
        call()
    return {name: Latency(median_s=2.0, minimum_s=1.0, rounds=1) for name in calls}


def test_a_samexporter_decoder_takes_a_prompt_a_call() -> None:
    given: list[Feeds] = []

    def run(feeds: Feeds) -> Feeds:
        given.append(feeds)
        return {
            "masks": np.full((1, 4, 20, 30), len(given), np.float32),
            "iou_predictions": np.full((1, 4), len(given), np.float32),
            "low_res_masks": np.full((1, 4, 64, 64), len(given), np.float32),
        }

    session = UpstreamSession(SMALL_SAM, run, normalise=False)
    feeds = {
        "image_embeddings": np.zeros((1, 256, 16, 16), np.float32),
        "point_coords": np.arange(8, dtype=np.float32).reshape(2, 2, 2),
        "point_labels": np.asarray([[1, -1], [0, -1]], np.float32),
        "mask_input": np.zeros((2, 1, 64, 64), np.float32),
    }
    found = session.resized(feeds, (20, 30))
    assert [f["point_coords"].tolist() for f in given] == [
        [[[0, 1], [2, 3]]],
        [[[4, 5], [6, 7]]],
    ]
    assert [f["orig_im_size"].tolist() for f in given] == [[20, 30]] * 2
    assert found["iou_predictions"][:, 0].tolist() == [1, 2]
    assert found["low_res_masks"].shape == (2, 4, 64, 64)
    assert found["masks"].shape == (1, 4, 20, 30)


def test_bf16_is_openvinos_alone(small_checkpoint: Checkpoint, tmp_path: Path) -> None:
    found = ours(SMALL_SAM, small_checkpoint, "onnx", "bf16", tmp_path)
    assert found.problem == "this runtime computes nothing in BF16"
    assert list(tmp_path.iterdir()) == []


def row(kind: str, runtime: str, seconds: float | None, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    return {
        "model": "mobile-sam",
        "task": "encoder",
        "kind": kind,
        "runtime": runtime,
        "precision": "fp32",
        "bytes": 1_000_000,
        "median_s": seconds,
        "minimum_s": seconds,
        "mean_iou": 0.99,
        "min_iou": 0.98,
        "masks": None,
        "gflops": None,
        "problem": "",
        **more,
    }


@pytest.fixture
def document() -> dict[str, Any]:
    return {
        "command": "python -m benchmarks.speed --repeats 9",
        "commit": "abc1234",
        "machine": ABOUT,
        "torch_threads": 1,
        "repeats": 9,
        "official_weights": {"mobile-sam": True},
        "rows": [
            row(PLAIN, "onnx", 2.0),
            row(PLAIN, "tflite", 1.0),
            row(PLAIN, "openvino", None, problem="no | converter"),
            row(UPSTREAM, "onnx", 4.0),
            row(OURS, "onnx", 0.5),
            row("peak", "GEMM", 1.0, task="peak", gflops=91.4),
        ],
    }


def test_the_speed_up_is_over_the_plain_conversion(document: dict[str, Any]) -> None:
    rows = document["rows"]
    assert [speed_report.speed_up(r, rows) for r in rows[:5]] == [1.0, 1.0, None, 0.5, 4.0]
    assert speed_report.speed_up(rows[4], rows, any_runtime=True) == 2.0


def test_the_tables_say_machine_peak_and_iou(document: dict[str, Any]) -> None:
    text = speed_report.markdown(document, chart="a.svg")
    assert "`python -m benchmarks.speed --repeats 9` at commit `abc1234`." in text
    assert "Some CPU, 2 cores (avx2), load 0.1 before the run; torch 2; 9 rounds." in text
    assert "## mobile-sam, official weights" in text
    assert "GFLOP/s, FP32 in torch, 1 thread: GEMM 91." in text
    assert (
        "| ours, onnx fp32 | 500.0 | 500.0 | 4.00 | 2.00 | - | 0.9900 | 0.9800 | 1.0 | - |" in text
    )
    assert "| plain, openvino fp32 | no / converter |" in text
    assert "](a.svg)" in text
    assert json.loads(json.dumps(document)) == document


def test_the_chart_has_a_bar_for_each_time(document: dict[str, Any]) -> None:
    root = ElementTree.fromstring(speed_report.chart(document))
    found = [e for e in root.iter() if e.tag.endswith("rect") and e.get("x") is not None]
    assert len(found) == 4
    widths = [float(e.get("width", "")) for e in found]
    assert widths == [widths[3] / 4, widths[3] / 4, widths[3] / 8, widths[3]]
