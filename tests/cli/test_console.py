"""Terminal output: stage lines, progress bars, tables and errors."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import replace

import pytest

from effsam_export.cli import console
from effsam_export.errors import EffsamError
from effsam_export.parity.results import ParityReport
from effsam_export.util.progress import StageEvent, stage
from tests.parity.test_gates import CASE, COMPARISON, GATES


def test_one_line_per_stage(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = console.Console()
    with stage("lower encoder", terminal.on_event) as running:
        running.detail = "23.9 MB"
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "✓ lower encoder        0.0 s  23.9 MB\n"


def test_a_stage_that_raises_gets_a_cross(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = console.Console()
    with pytest.raises(ValueError, match="broken"), stage("load", terminal.on_event):
        raise ValueError("broken")
    assert capsys.readouterr().err == "✗ load                 0.0 s\n"


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = console.Console(quiet=True)
    terminal.message("hello")
    terminal.on_event(StageEvent(kind="finished", stage="load"))
    terminal.on_transfer("weights", 1, 2)
    terminal.result(passed=True, what="all")
    assert capsys.readouterr() == ("", "")


def test_no_bar_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = console.Console()
    terminal.on_transfer("weights", 1, 2)
    terminal.on_event(StageEvent(kind="started", stage="parity"))
    terminal.on_event(StageEvent(kind="advanced", stage="parity", done=1, total=3))
    terminal.close()
    assert capsys.readouterr() == ("", "")


def test_the_progress_bar_on_a_terminal_is_removed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    terminal = console.Console()
    terminal.on_transfer("weights", 1_000_000, 2_000_000)
    terminal.on_transfer("weights", 2_000_000, 2_000_000)
    terminal.close()
    assert "weights" in capsys.readouterr().err


def test_the_result_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.Console().result(passed=False, what="mobile-sam onnx fp16")
    assert capsys.readouterr().err.startswith("FAILED  mobile-sam onnx fp16  ")


def test_error_and_hint(capsys: pytest.CaptureFixture[str]) -> None:
    console.error(EffsamError("it is broken", hint="mend it"))
    assert capsys.readouterr() == ("", "error: it is broken\n\nhint: mend it\n")


def test_names_add_no_lines_to_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\nerror: b\r\x1b[2J\u2028\u202e\ud800é"
    shown = r"a\nerror: b\r\x1b[2J\u2028\u202e\ud800é"
    console.error(EffsamError(f"`{name}` is bad:", lines=[f"one {name}", "two"], hint=name))
    lines = f"error: `{shown}` is bad:\n  one {shown}\n  two\n\nhint: {shown}\n"
    assert capsys.readouterr().err == lines


def test_names_add_no_lines_to_messages(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = console.Console()
    terminal.message("first", "a\nb")
    terminal.next("effsam run a\nerror: b")
    terminal.result(passed=True, what="a\nFAILED b")
    terminal.on_event(StageEvent(kind="finished", stage="load", detail="a\nb"))
    first, second, *rest = capsys.readouterr().err.splitlines()
    assert (first, second, len(rest)) == ("first", r"a\nb", 3)
    assert all(r"a\n" in line for line in rest)


def test_table_columns_line_up() -> None:
    assert console.table(("a", "long"), [["wide cell", "b"], ["", "c"]]) == (
        "a          long\nwide cell  b\n           c"
    )


def test_parity_table_shows_the_worst_of_each_tensor() -> None:
    worse = replace(
        COMPARISON, tensors=(replace(COMPARISON.tensors[0], max_abs=0.5, sqnr_db=math.inf),)
    )
    report = ParityReport(
        model="m",
        target="t",
        precision="fp32",
        gates=GATES,
        comparisons=(COMPARISON, worse),
        cases=(CASE, replace(CASE, case="cat/eye", artifact_best=3)),
        failures=(),
    )
    text = console.parity_table(report)
    assert "cat/nose    0.9980    2        0.9900" in text
    assert "2 -> 3: 0.9980, gap 5.0e-02" in text
    assert "decoder, ONNX to artefact  low_res_masks  5.0e-01  1.0000000  90 dB" in text


def test_parity_table_shows_masks_that_do_not_decide_beside() -> None:
    sure = replace(CASE, scores=(0.9,) * 4, stability=(0.9,) * 4, score_errors=(0.002,) * 4)
    unsure = replace(sure, case="cat/eye", artifact_best=3, stability=(0.9, 0.9, 0.2, 0.9))
    tie = replace(sure, case="cat/ear", artifact_best=3, score_gap=0.0002)
    report = ParityReport(
        model="m",
        target="t",
        precision="fp32",
        gates=GATES,
        comparisons=(COMPARISON,),
        cases=(sure, unsure, tie),
        failures=(),
    )
    lines = console.parity_table(report).splitlines()
    cells = [re.split(r"  +", line) for line in lines[:4]]
    assert cells[0][-2:] == ["best mask", "do not decide"]
    assert cells[1][-3:] == ["2.0e-03", "same", "-"]
    assert cells[2][:3] == ["cat/eye", "0.9990", "0"]
    assert cells[2][-2:] == ["2 -> 3: 0.9980, gap 5.0e-02", "2: 0.9980"]
    assert cells[3][-2:] == ["tie, 2 -> 3: 0.9980, gap 2.0e-04", "-"]
    assert "PyTorch is confident of 5 of 6 masks, and these decide." in lines[5]
