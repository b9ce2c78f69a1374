"""The HTML page of a benchmark: closed, self-contained, escaped, with bars to scale."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from effsam_export.bench.page import LONGEST, page, summary
from effsam_export.bench.results import Measured
from tests.bench.figures import BENCHMARK, COREML, ONNX, measured
from tests.pipeline.test_report import HOSTILE, Page


def test_the_page_is_whole_and_loads_nothing() -> None:
    html = page(BENCHMARK)
    found = Page(html)
    assert not found.loads
    assert not {"script", "link", "iframe", "img"} & set(found.tags)
    for word in ("http:", "https:", "url("):
        assert word not in html
    assert found.tags.count("svg") == 7
    for shown in ("AMD EPYC 7B13", "coffee.jpg, 600x400 pixels", "onnxruntime 1.31.1", "not timed"):
        assert shown in found.text


def test_bars_are_to_scale_with_the_tail() -> None:
    html = page(BENCHMARK)
    chart = html[html.index("<figcaption>Encoder") :].split("</svg>")[0]
    lengths = [float(x) for x in re.findall(r'<rect class="bar"[^>]* width="([\d.]+)"', chart)]
    ends = [float(x) for x in re.findall(r'class="reach" d="M[\d.]+ [\d.]+H([\d.]+)', chart)]
    # The second bundle takes twice as long, and the longest line fills the chart.
    assert lengths[1] == pytest.approx(2 * lengths[0], abs=0.2)
    assert ends == pytest.approx([LONGEST / 2, LONGEST], abs=0.2)
    assert ends[1] == pytest.approx(1.1 * lengths[1], abs=0.2)
    assert ">400.0 ms</text>" in chart
    assert ">800.0 ms</text>" in chart


def test_the_summary_names_the_bundle_with_the_lowest_median() -> None:
    assert summary(BENCHMARK) == (
        "dist/mobile-sam-onnx-fp32 takes 450.0 ms from an image to the first mask, each further "
        "prompt 30.0 ms: the lowest median of 2 bundles."
    )
    alone = replace(BENCHMARK, bundles=(measured(ONNX, 1.0),))
    assert summary(alone).endswith("each further prompt 30.0 ms.")
    assert "No bundle was timed" in summary(replace(BENCHMARK, bundles=(Measured(subject=COREML),)))


def test_names_are_only_text() -> None:
    hostile = measured(replace(ONNX, name=HOSTILE), 1.0)
    found = Page(page(replace(BENCHMARK, bundles=(hostile,))))
    assert "script" not in found.tags
    assert found.text.count("<script>alert('x')</script>\"&`?") >= 3


def test_a_long_name_is_shortened_at_its_start() -> None:
    name = f"{'very/' * 30}mobile-sam-onnx-fp32"
    html = page(replace(BENCHMARK, bundles=(measured(replace(ONNX, name=name), 1.0),)))
    shown = re.findall(r'<text class="name"[^>]*>([^<]+)<', html)[0]
    assert shown.startswith("…")
    assert shown.endswith("/mobile-sam-onnx-fp32")
    assert len(shown) == 46
