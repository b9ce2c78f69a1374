"""The pages of an evaluation: closed, self-contained, escaped, with bars to scale."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from effsam_export.evaluate import text
from effsam_export.evaluate.page import LONGEST, PLOT, page, summary
from tests.evaluate.made_up import ALONE, EVALUATION
from tests.pipeline.test_report import HOSTILE, Page


def test_the_page_is_whole_and_loads_nothing() -> None:
    html = page(EVALUATION)
    found = Page(html)
    assert not found.loads
    assert not {"script", "link", "iframe", "img"} & set(found.tags)
    for word in ("http:", "https:", "url("):
        assert word not in html
    assert found.tags.count("svg") == 2
    for shown in (
        "instances.json, 3 objects in 3 images (limit 3); left out 2 of crowds and 1 without a",
        "AMD EPYC 7B13",
        "2000 bootstrap draws of the images, seed 7",
        "its speed was not measured",
        "-0.0300 to -0.0100",
        "12.5 %",
    ):
        assert shown in found.text


def test_bars_are_to_scale_with_their_intervals() -> None:
    html = page(EVALUATION)
    lengths = [float(x) for x in re.findall(r'<rect class="bar"[^>]* width="([\d.]+)"', html)]
    assert lengths == pytest.approx([LONGEST * m for m in (0.75, 0.7, 0.8)], abs=0.1)
    reach = re.findall(r'class="reach" d="M([\d.]+) [\d.]+H([\d.]+)', html)
    assert [tuple(map(float, pair)) for pair in reach] == [(LONGEST * 0.5, LONGEST * 0.9)] * 2


def test_a_line_falls_at_the_iou_of_each_object() -> None:
    html = page(replace(EVALUATION, bundles=(ALONE,)))
    (points,) = re.findall(r'<polyline class="line" points="([^"]+)"', html)
    shares = {
        round(float(x) / LONGEST, 2): round(1 - float(y) / PLOT, 2)
        for x, y in (point.split(",") for point in points.split())
    }
    assert len(shares) == 101
    assert (shares[0.6], shares[0.61]) == (1, 0.67)
    assert (shares[0.8], shares[0.81], shares[1.0]) == (0.67, 0.33, 0.33)


def test_pytorch_has_a_line_of_its_own() -> None:
    assert page(EVALUATION).count("<polyline") == 3
    assert "2. PyTorch" in Page(page(EVALUATION)).text


def test_the_summary_names_the_best() -> None:
    assert summary(EVALUATION) == ("Highest mIoU: 0.7500 with box (dist/mobile-sam-onnx-fp32).")
    assert summary(replace(EVALUATION, bundles=(ALONE,))) == "mIoU: 0.7500 with box."


def test_names_are_only_text() -> None:
    hostile = replace(EVALUATION, bundles=(replace(ALONE, bundle=HOSTILE),))
    found = Page(page(hostile))
    assert "script" not in found.tags
    assert found.text.count("<script>alert('x')</script>\"&`?") >= 3


def test_markdown_has_a_table_for_each_bundle() -> None:
    lines = text.markdown(EVALUATION).splitlines()
    assert "## dist/mobile-sam-onnx-fp32" in lines
    assert "| box | all | 3 | 0.7500 | 0.5000 to 0.9000 |" in lines
    assert "| box | large | 1 | 0.8000 | - |" in lines
    (row,) = [line for line in lines if "0.9900" in line]
    assert row == (
        "| box | all | 3 | 0.7000 | 0.5000 to 0.9000 | 0.7200 | -0.0200 | -0.0300 to -0.0100 | "
        "0.9900 | 12.5 % |"
    )
    tables = [line.count("|") for line in lines if line.startswith("|")]
    assert tables == [6] * 4 + [11] * 3
    assert "Note: its speed was not measured." in lines


def test_markdown_shows_names_as_they_are() -> None:
    named = replace(EVALUATION, bundles=(replace(ALONE, bundle="a_b|*c*\n# d"),))
    assert "## a\\_b\\|\\*c\\* \\# d" in text.markdown(named).splitlines()
