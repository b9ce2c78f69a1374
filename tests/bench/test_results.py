"""Quantiles, notes and the JSON document of a benchmark, and how it is shown as text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from docs.from_code import documents
from effsam_export.bench.results import Measured, latency_of, quantile
from effsam_export.bench.text import WIDTH, text
from tests.bench.figures import BENCHMARK, ONNX, TFLITE
from tests.package.test_docs import key_paths


@pytest.mark.parametrize(
    ("values", "share", "wanted"),
    [
        ([3.0], 0.9, 3.0),
        ([1.0, 2.0], 0.5, 1.5),
        ([5.0, 1.0, 3.0], 0.5, 3.0),
        ([float(n) for n in range(11)], 0.9, 9.0),
        ([0.0, 10.0], 0.9, 9.0),
    ],
)
def test_quantiles_are_interpolated(values: list[float], share: float, wanted: float) -> None:
    assert quantile(values, share) == pytest.approx(wanted)


def test_a_latency_has_median_and_tail() -> None:
    found = latency_of([4.0, 1.0, 2.0, 3.0, 100.0])
    assert (found.p50_s, found.minimum_s) == (3.0, 1.0)
    assert found.p90_s == pytest.approx(61.6)


def test_every_key_of_the_document_is_documented() -> None:
    printed = key_paths(BENCHMARK.document())
    documented = set(documents.documents()["bench"])
    free = {k.removesuffix("NAME") for k in documented if k.endswith(".NAME")}
    others = {k for k in printed - documented if not any(k.startswith(f) for f in free)}
    assert others == {"machine", "image", "bundles", "bundles[].latency_ms"}
    assert free == {"bundles[].latency_ms."}
    assert {k for k in documented if not k.endswith("NAME")} <= printed


def test_times_are_in_milliseconds() -> None:
    first, second, third = BENCHMARK.document()["bundles"]
    assert first["latency_ms"]["encoder"] == pytest.approx({"p50": 400, "p90": 440, "min": 360})
    assert first["open_ms"] == pytest.approx(300)
    assert second["prompts_per_call"] == 1
    assert third["latency_ms"] == {}
    assert third["not_timed"].startswith("its runtime does not run on this machine")


def test_the_text_fits_80_columns() -> None:
    shown = text(BENCHMARK)
    assert max(map(len, shown.splitlines())) <= WIDTH
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "ms encoder 1 prompt 8 prompts 64 prompts first mask" in lines
    assert "1 p50 400.0 30.0 100.0 900.0 450.0" in lines
    assert "p90 440.0 33.0 110.0 990.0 495.0" in lines
    assert "2 p50 800.0 60.0 200.0 1800.0 900.0" in lines
    assert "files, MB memory, MB with 64 prompts open, ms" in lines
    assert "1 44.6 400 900 300.0" in lines
    assert "3 22.3 - - -" in lines
    assert "mobile-sam for tflite, fp32; ai-edge-litert 2.3.0, 4 threads" in lines
    assert "one prompt a call: 8 and 64 prompts are 8 and 64 calls" in lines
    assert any(line.startswith("not timed: its runtime does not run") for line in lines)


def test_ten_bundles_and_slow_ones_fit_too() -> None:
    slow = replace(BENCHMARK.bundles[0], latencies={k: latency_of([123.456]) for k in ("encoder",)})
    shown = text(replace(BENCHMARK, bundles=(slow,) * 10))
    assert max(map(len, shown.splitlines())) <= WIDTH
    assert "10  p50   123456" in shown


def test_a_bundle_without_a_decoder_has_no_figures_for_it() -> None:
    encoder = replace(ONNX, components=("encoder",), prompts_per_call=0)
    only = Measured(
        subject=encoder,
        latencies={"encoder": latency_of([0.4])},
        one_prompt_bytes=10**8,
        peak_bytes=10**8,
    )
    lines = [" ".join(x.split()) for x in text(replace(BENCHMARK, bundles=(only,))).splitlines()]
    assert "1 p50 400.0 - - - -" in lines
    assert "1 44.6 100 - -" in lines
    assert "no decoder in the bundle, so no masks" in lines


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"components": ("segmenter",), "prompts_per_call": 0}, "one graph, which is the encoder"),
        ({"components": ("decoder",)}, "the decoder runs on a random embedding"),
        ({"images_per_call": 4}, "a call of the encoder takes 4 images"),
        ({"prompts_per_call": 16}, "at most 16 prompts a call"),
        ({"prompts_per_call": 1}, "one prompt a call"),
    ],
)
def test_notes(changes: dict[str, object], note: str) -> None:
    (found,) = replace(ONNX, **changes).notes  # type: ignore[arg-type]
    assert note in found


def test_a_failure_is_the_note_of_a_bundle() -> None:
    failed = Measured(subject=TFLITE, failure="its process ended with code 1")
    assert failed.notes == ("failed: its process ended with code 1",)
    whole = replace(BENCHMARK, bundles=(failed,))
    assert whole.failures == ("`dist/mobile-sam-tflite-fp32`: its process ended with code 1",)
    assert not whole.timed
    assert "failed: its process ended with code 1" in text(whole)
