"""What a CI reads of a build."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from effsam_export.matrix import summary
from effsam_export.matrix.config import Cell
from effsam_export.matrix.run import Result
from effsam_export.matrix.worker import Outcome, State


def result(name: str, state: State, *, cached: bool = False, message: str = "") -> Result:
    cell = Cell(model=name, target="onnx", precision="fp32", options={})
    good = state in ("verified", "simulated")
    return Result(
        cell=cell,
        outcome=Outcome(
            state=state,
            min_iou=0.98765 if good else None,
            message=message,
            hint="look at it" if message else None,
            seconds=12.5,
            peak_mb=2048.0,
        ),
        cached=cached,
        reasons=() if cached else ("weights 1 -> 2",),
        output=Path("dist") / cell.name if good else None,
    )


MIXED = [
    result("a", "verified"),
    result("b", "simulated", cached=True),
    result("c", "failed", message="mask 1 has IoU 0.5 | want <0.9>\nand more"),
    result("d", "toolchain missing", message="no `openvino`"),
]


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["verified", "simulated"], 0),
        (["verified", "failed", "refused", "toolchain missing"], 1),
        (["refused", "toolchain missing"], 2),
        (["verified", "toolchain missing"], 3),
    ],
)
def test_exit_codes(states: list[State], code: int) -> None:
    assert summary.exit_code([result("x", s) for s in states]) == code


def test_the_sentence_counts_every_cell_once() -> None:
    assert summary.sentence(MIXED) == "4 cells: 1 built, 1 from the cache, 2 failed"


def test_json() -> None:
    found = json.loads(json.dumps(summary.document(MIXED)))
    assert (found["passed"], found["converted"]) == (False, 3)
    first, second, third, _ = found["cells"]
    assert first["bundle"] == "dist/a-onnx-fp32"
    assert first["reasons"] == ["weights 1 -> 2"]
    assert second["cached"] is True
    assert (third["bundle"], third["hint"]) == (None, "look at it")


def test_junit_is_xml_that_counts_and_escapes() -> None:
    suite = ET.fromstring(summary.junit(MIXED))
    assert {k: suite.get(k) for k in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4",
        "failures": "1",
        "errors": "1",
        "skipped": "0",
    }
    cases = {c.get("name"): c for c in suite.iter("testcase")}
    fault = cases["c-onnx-fp32"].find("failure")
    assert fault is not None
    assert "want <0.9>" in str(fault.get("message"))
    assert cases["d-onnx-fp32"].find("error") is not None
    assert cases["a-onnx-fp32"].findtext("system-out") == "built, verified, min mask IoU 0.9877"


def test_markdown_keeps_its_columns() -> None:
    lines = summary.markdown(MIXED).splitlines()
    assert lines[0] == "**4 cells: 1 built, 1 from the cache, 2 failed**"
    rows = lines[4:]
    assert len(rows) == 4
    assert all(row.count("|") == 7 for row in rows)
    assert "simulated, cached" in rows[1]
    assert "mask 1 has IoU 0.5 / want <0.9> |" in rows[2]
