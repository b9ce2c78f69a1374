"""The results of a build for programs and people: JSON, JUnit XML, Markdown."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from effsam_export.matrix.run import Planned, Result

EXIT_CODES = {"failed": 1, "refused": 2, "toolchain missing": 3}
"""State of a cell without a bundle -> exit code, as `effsam export` has it."""


def exit_code(results: Sequence[Result]) -> int:
    """0 where every cell has its bundle; else the first of 1, 2 and 3 that a cell earned."""
    return min((EXIT_CODES[r.answer.state] for r in results if not r.answer.passed), default=0)


def sentence(results: Sequence[Result]) -> str:
    """The build in a line."""
    made = sum(r.answer.passed and not r.cached for r in results)
    cached = sum(r.cached for r in results)
    failed = sum(not r.answer.passed for r in results)
    return f"{len(results)} cells: {made} built, {cached} from the cache, {failed} failed"


def document(results: Sequence[Result]) -> dict[str, Any]:
    """The results as JSON."""
    return {
        "passed": exit_code(results) == 0,
        "converted": sum(not r.cached for r in results),
        "cells": [
            {
                "name": r.cell.name,
                "model": r.cell.model,
                "target": r.cell.target,
                "precision": r.cell.precision,
                "state": r.answer.state,
                "cached": r.cached,
                "reasons": list(r.reasons),
                "bundle": None if r.output is None else str(r.output),
                "evidence": None if r.evidence is None else str(r.evidence),
                "min_iou": r.answer.min_iou,
                "mean_iou": r.answer.mean_iou,
                "seconds": r.answer.seconds,
                "peak_mb": r.answer.peak_mb,
                "message": r.answer.message,
                "hint": r.answer.hint,
            }
            for r in results
        ],
    }


def plan_document(planned: Sequence[Planned]) -> dict[str, Any]:
    """What a build would do, as JSON; `matrix` is what a CI's job matrix takes."""
    cells = [
        {
            "name": p.cell.name,
            "model": p.cell.model,
            "target": p.cell.target,
            "precision": p.cell.precision,
            "digest": p.digest,
            "cached": p.bundle is not None,
            "reasons": list(p.reasons),
        }
        for p in planned
    ]
    return {
        "cells": cells,
        "matrix": {
            "include": [
                {k: c[k] for k in ("name", "model", "target", "precision")}
                for c in cells
                if not c["cached"]
            ]
        },
    }


def junit(results: Sequence[Result]) -> str:
    """A JUnit report: a test case for each cell, one that failed with its reason.

    The form is that of the Jenkins xUnit plugin's schema, which CI systems read.
    """
    missing = sum(r.answer.state == "toolchain missing" for r in results)
    suite = ET.Element(
        "testsuite",
        name="effsam build",
        tests=str(len(results)),
        failures=str(sum(r.answer.state in ("failed", "refused") for r in results)),
        errors=str(missing),
        skipped="0",
        time=f"{sum(r.answer.seconds for r in results):.3f}",
    )
    for r in results:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=f"{r.cell.model}.{r.cell.target}",
            name=r.cell.name,
            time=f"{r.answer.seconds:.3f}",
        )
        if r.answer.passed:
            ET.SubElement(case, "system-out").text = _about(r)
        else:
            kind = "error" if r.answer.state == "toolchain missing" else "failure"
            fault = ET.SubElement(case, kind, type=r.answer.state, message=r.answer.message)
            fault.text = r.answer.hint or ""
    ET.indent(suite)
    text: str = ET.tostring(suite, encoding="unicode", xml_declaration=True)
    return text + "\n"


def markdown(results: Sequence[Result]) -> str:
    """A table for a CI's summary page."""
    lines = [
        f"**{sentence(results)}**",
        "",
        "| cell | state | least IoU | s | peak, MB | why |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for r in results:
        least = "-" if r.answer.min_iou is None else f"{r.answer.min_iou:.4f}"
        why = r.answer.message.splitlines()[0] if r.answer.message else "; ".join(r.reasons)
        state = f"{r.answer.state}, cached" if r.cached else r.answer.state
        lines.append(
            f"| `{r.cell.name}` | {state} | {least} | {r.answer.seconds:.0f} "
            f"| {r.answer.peak_mb:.0f} | {why.replace('|', '/')} |"
        )
    return "\n".join(lines) + "\n"


def _about(result: Result) -> str:
    least = result.answer.min_iou
    figure = "" if least is None else f", min mask IoU {least:.4f}"
    return f"{'cached' if result.cached else 'built'}, {result.answer.state}{figure}"
