"""Summaries of a build: JSON, JUnit XML, Markdown and one sentence."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

from effsam_export.weights.acquire import UNKNOWN_HASH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from effsam_export.matrix.run import PlannedCell, Result
    from effsam_export.spec.model import WeightFile

EXIT_CODES = {"failed": 1, "refused": 2, "toolchain missing": 3}
"""State of a cell without a bundle -> exit code, as of `effsam export`."""


def exit_code(results: Sequence[Result]) -> int:
    """Return 0 if every cell has a bundle; else the smallest exit code of the failed cells."""
    return min((EXIT_CODES[r.outcome.state] for r in results if not r.outcome.passed), default=0)


def sentence(results: Sequence[Result]) -> str:
    """Return the numbers of built, cached and failed cells as one sentence."""
    built = sum(r.outcome.passed and not r.cached for r in results)
    cached = sum(r.cached for r in results)
    failed = sum(not r.outcome.passed for r in results)
    return f"{len(results)} cells: {built} built, {cached} from the cache, {failed} failed"


def document(results: Sequence[Result]) -> dict[str, Any]:
    """Return the results as a JSON document."""
    return {
        "passed": exit_code(results) == 0,
        "converted": sum(not r.cached for r in results),
        "cells": [
            {
                "name": r.cell.name,
                "model": r.cell.model,
                "target": r.cell.target,
                "precision": r.cell.precision,
                "state": r.outcome.state,
                "cached": r.cached,
                "reasons": list(r.reasons),
                "bundle": None if r.output is None else str(r.output),
                "evidence": None if r.evidence is None else str(r.evidence),
                "min_iou": r.outcome.min_iou,
                "mean_iou": r.outcome.mean_iou,
                "seconds": r.outcome.seconds,
                "peak_mb": r.outcome.peak_mb,
                "message": r.outcome.message,
                "hint": r.outcome.hint,
            }
            for r in results
        ],
    }


def plan_document(
    planned: Sequence[PlannedCell], downloads: Mapping[str, WeightFile]
) -> dict[str, Any]:
    """Return the plan as a JSON document; `matrix` is the job matrix of a CI system.

    Args:
        planned: The cells.
        downloads: Model -> its official checkpoint, which the build would download.
    """
    cells = [
        {
            "name": p.cell.name,
            "model": p.cell.model,
            "target": p.cell.target,
            "precision": p.cell.precision,
            "digest": None if p.parts["weights"] == UNKNOWN_HASH else p.digest,
            "cached": p.bundle is not None,
            "reasons": list(p.reasons),
        }
        for p in planned
    ]
    return {
        "cells": cells,
        "downloads": [
            {"model": model, "file": weights.file_name, "bytes": weights.size}
            for model, weights in downloads.items()
        ],
        "matrix": {
            "include": [
                {k: c[k] for k in ("name", "model", "target", "precision")}
                for c in cells
                if not c["cached"]
            ]
        },
    }


def junit(results: Sequence[Result]) -> str:
    """Return a JUnit report with a test case for each cell.

    The format is the schema of the Jenkins xUnit plugin, which CI systems read.
    """
    missing = sum(r.outcome.state == "toolchain missing" for r in results)
    suite = ET.Element(
        "testsuite",
        name="effsam build",
        tests=str(len(results)),
        failures=str(sum(r.outcome.state in ("failed", "refused") for r in results)),
        errors=str(missing),
        skipped="0",
        time=f"{sum(r.outcome.seconds for r in results):.3f}",
    )
    for r in results:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=f"{r.cell.model}.{r.cell.target}",
            name=r.cell.name,
            time=f"{r.outcome.seconds:.3f}",
        )
        if r.outcome.passed:
            ET.SubElement(case, "system-out").text = _about(r)
        else:
            kind = "error" if r.outcome.state == "toolchain missing" else "failure"
            fault = ET.SubElement(case, kind, type=r.outcome.state, message=r.outcome.message)
            fault.text = r.outcome.hint or ""
    ET.indent(suite)
    text: str = ET.tostring(suite, encoding="unicode", xml_declaration=True)
    return text + "\n"


def markdown(results: Sequence[Result]) -> str:
    """Return a Markdown table for the summary page of a CI system."""
    lines = [
        f"**{sentence(results)}**",
        "",
        "| cell | state | min IoU | s | peak, MB | reason |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for r in results:
        min_iou = "-" if r.outcome.min_iou is None else f"{r.outcome.min_iou:.4f}"
        reason = r.outcome.message.splitlines()[0] if r.outcome.message else "; ".join(r.reasons)
        state = f"{r.outcome.state}, cached" if r.cached else r.outcome.state
        lines.append(
            f"| `{r.cell.name}` | {state} | {min_iou} | {r.outcome.seconds:.0f} "
            f"| {r.outcome.peak_mb:.0f} | {reason.replace('|', '/')} |"
        )
    return "\n".join(lines) + "\n"


def _about(result: Result) -> str:
    min_iou = result.outcome.min_iou
    figure = "" if min_iou is None else f", min mask IoU {min_iou:.4f}"
    return f"{'cached' if result.cached else 'built'}, {result.outcome.state}{figure}"
