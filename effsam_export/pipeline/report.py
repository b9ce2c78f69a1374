"""A parity check as one HTML file: the verdict, what was measured, and where masks differ.

The file loads nothing, runs no script and holds no time of day: the same check gives the same
bytes, except for latencies that were measured on this machine.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from effsam_export.pages import page
from effsam_export.pages.page import Cell, cells
from effsam_export.parity.gates import sqnr_of
from effsam_export.pipeline import report_pictures
from effsam_export.pipeline.report_numbers import cosine, iou, number, worst
from effsam_export.spec.prompts import EMBEDDINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from effsam_export.pages.page import Row
    from effsam_export.parity.cases import Decision
    from effsam_export.parity.results import ParityReport, Picture, TensorDiff
    from effsam_export.pipeline.int8_comparison import Int8Comparison
    from effsam_export.pipeline.report_facts import ReportFacts

TEMPLATES = Path(__file__).resolve().parent / "templates"
POINTS = {"onnx": "PyTorch → ONNX", "artifact": "ONNX → artefact"}
NOTHING = "nothing was measured"


def render(
    report: ParityReport,
    pictures: Sequence[Picture],
    int8_comparisons: Sequence[Int8Comparison] = (),
    *,
    facts: ReportFacts | None = None,
    title: str | None = None,
) -> str:
    """Return a whole check as one HTML document, to be written as UTF-8.

    Args:
        report: The measurements. Values that miss a gate are marked; the verdict is the report's.
        pictures: Cases to show: image uint8 HxWx3 RGB, both masks bool HxW, points and box in
            pixels of the image. Those without a differing pixel are collapsed.
        int8_comparisons: Size and latency of an INT8 export beside its FP16 and FP32 variants.
        facts: Weights, tools, machine, sizes and latencies; None leaves them out.
        title: The heading, or None for the model and its target.
    """
    failures = list(report.failures)
    if not (report.passed or failures):
        failures.append(NOTHING)
    return page.render(
        TEMPLATES,
        "report.html.jinja",
        {
            "heading": title if title is not None else f"{report.model} for {report.target}",
            "report": report,
            "summary": summary(report),
            "failures": failures,
            "facts": facts,
            "short_facts": [] if facts is None else _short_facts(report, facts),
            "component_rows": [] if facts is None else _component_rows(facts),
            "int8_rows": _int8_rows(int8_comparisons),
            "int8_sentences": ["; ".join(c.sentences()) for c in int8_comparisons],
            "gate_rows": _gate_rows(report),
            "decided_by": report.decided_by,
            "case_rows": [_case_row(report, decision) for decision in report.decisions],
            "is_beside_shown": not report.all_masks_decide,
            "tensor_rows": _tensor_rows(report),
            "swatches": report_pictures.SWATCHES,
            "pictures": [report_pictures.view(p) for p in pictures],
        },
    )


def summary(report: ParityReport) -> str:
    """Return the verdict with its main figure, as one sentence."""
    if not report.comparisons:
        return "Nothing was measured, so nothing is known of the exported model."
    if report.min_iou is not None:
        count = "1 prompt" if len(report.cases) == 1 else f"{len(report.cases)} prompts"
        if not report.all_masks_decide:
            count += f" and {report.confident_masks} confident masks"
        lowest = report.min_iou
        what = "masks"
        figure = (
            f"{count}: the lowest mask IoU is {iou(lowest)}, and its gate {report.gates.mask_iou}"
        )
    else:
        values = [t.cosine for c in report.comparisons for t in c.tensors]
        what = "tensors"
        figure = f"{len(report.comparisons)} comparisons"
        if values:
            figure += f": the lowest cosine similarity is {cosine(worst(min, values))}, "
            figure += f"and its gate {report.gates.cosine}"
    if report.passed:
        return f"The exported model gives PyTorch's {what} within every gate on {figure}."
    missed = "1 check" if len(report.failures) == 1 else f"{len(report.failures)} checks"
    return f"The exported model does not give PyTorch's {what}: {missed} failed, on {figure}."


def _short_facts(report: ParityReport, facts: ReportFacts) -> list[tuple[str, str]]:
    """Return the facts above the fold: (name, value)."""
    calls = [
        f"{c.component} {_milliseconds(c.seconds)}"
        for c in facts.components
        if c.seconds is not None
    ]
    official = "the authors' file" if facts.official else "not the authors' file"
    found = [
        ("Precision", report.precision),
        ("Size", f"{facts.bytes / 1e6:.1f} MB"),
        ("Latency", ", ".join(calls) or "not measured: the target's runtime does not run here"),
        ("Licence", facts.licence),
        ("Weights", f"{facts.weights}, {official}"),
        ("Machine", facts.machine),
    ]
    return [(name, value) for name, value in found if value]


def _component_rows(facts: ReportFacts) -> list[Row]:
    return [
        (
            c.component,
            (
                Cell(text=c.precision),
                Cell(text=" ".join(c.files), code=True),
                Cell(text=f"{c.bytes / 1e6:.2f}"),
                Cell(text="-" if c.seconds is None else f"{1e3 * c.seconds:.1f}"),
            ),
        )
        for c in facts.components
    ]


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.0f} ms" if seconds >= 0.01 else f"{1e3 * seconds:.1f} ms"


def _int8_rows(int8_comparisons: Sequence[Int8Comparison]) -> list[Row]:
    rows: list[Row] = []
    for comparison in int8_comparisons:
        int8 = comparison.int8
        for variant in (int8, *comparison.baselines):
            is_int8 = variant is int8
            row = cells(
                variant.precision,
                f"{variant.bytes / 1e6:.2f}",
                "" if is_int8 else f"{int8.bytes / variant.bytes:.2f}",
                "-" if variant.seconds is None else f"{1e3 * variant.seconds:.0f}",
                "" if is_int8 else _share(int8.seconds, variant.seconds),
            )
            rows.append((comparison.component, row))
    return rows


def _share(seconds: float | None, other: float | None) -> str:
    return f"{seconds / other:.2f}" if seconds and other else "-"


def _gate_rows(report: ParityReport) -> list[Row]:
    gates = report.gates
    rows: list[Row] = []
    if (lowest_iou := report.min_iou) is not None:
        lowest = _at_least(gates.mask_iou, lowest_iou, iou)
        rows.append(("Mask IoU", (Cell(text=f"≥ {gates.mask_iou}"), lowest)))
        if gates.mean_iou:
            mean = _at_least(gates.mean_iou, fmean(report.ious), iou)
            rows.append(("Mean of mask IoU", (Cell(text=f"≥ {gates.mean_iou}"), mean)))
        error = _at_most(gates.score_error, worst(max, [d.score_error for d in report.decisions]))
        rows.append(("Score error", (Cell(text=f"≤ {gates.score_error}"), error)))
    tensors = [tensor for comparison in report.comparisons for tensor in comparison.tensors]
    if cosines := [tensor.cosine for tensor in tensors]:
        least = _at_least(gates.cosine, worst(min, cosines), cosine)
        rows.append(("Cosine of any tensor", (Cell(text=f"≥ {gates.cosine}"), least)))
    sqnrs = [tensor.sqnr_db for tensor in tensors if tensor.name == EMBEDDINGS]
    if sqnrs and report.all_masks_decide:
        limit = sqnr_of(gates.cosine)
        least = _at_least(limit, worst(min, sqnrs), _decibels)
        rows.append(("SQNR of the embedding, dB", (Cell(text=f"≥ {_decibels(limit)}"), least)))
    return rows


def _case_row(report: ParityReport, decision: Decision) -> Row:
    case, gates = decision.case, report.gates
    found: tuple[Cell, ...] = cells(*["-"] * 6)
    if (mask := decision.worst) is not None:
        found = (
            _at_least(gates.mask_iou, case.mask_iou[mask], iou),
            *cells(
                str(mask),
                f"{case.scores[mask]:.2f}" if case.scores else "-",
                f"{case.stability[mask]:.2f}" if case.stability else "-",
                iou(min(case.boundary_iou[i] for i in decision.masks)),
            ),
            _at_most(gates.score_error, decision.score_error),
        )
    row = (
        *found,
        Cell(text=_ranking(decision)),
        *([] if report.all_masks_decide else cells(_beside(decision))),
    )
    return case.case, row


def _beside(decision: Decision) -> str:
    """Return the masks of a prompt that do not decide, with PyTorch's score and stability."""
    case = decision.case
    found = []
    for mask in decision.beside:
        quality = f"score {case.scores[mask]:.2f}" if case.scores else ""
        quality += f", stability {case.stability[mask]:.2f}" if case.stability else ""
        found.append(f"mask {mask}: {iou(case.mask_iou[mask])} ({quality})")
    return "; ".join(found) or "-"


def _ranking(decision: Decision) -> str:
    case = decision.case
    if decision.ranking == "same":
        return "✓"
    # Not marked as missed: a tie does not count, nor does a best mask that does not decide.
    mark = "✗" if decision.ranking_counts else "tie:" if decision.ranking == "tie" else "beside:"
    return (
        f"{mark} mask {case.artifact_best}, not {case.best}; gap {number(case.score_gap)}, "
        f"IoU of the two {iou(case.best_iou)}"
    )


def _tensor_rows(report: ParityReport) -> list[Row]:
    tensors: dict[tuple[str, str, str], list[TensorDiff]] = {}
    for comparison in report.comparisons:
        for tensor in comparison.tensors:
            key = (comparison.component, comparison.point, tensor.name)
            tensors.setdefault(key, []).append(tensor)
    return [
        (
            component,
            (
                Cell(text=POINTS[point]),
                Cell(text=name, code=True),
                Cell(text=number(worst(max, [d.max_abs for d in diffs]))),
                _at_least(report.gates.cosine, worst(min, [d.cosine for d in diffs]), cosine),
                Cell(text=number(worst(min, [d.sqnr_db for d in diffs]), ".1f")),
            ),
        )
        for (component, point, name), diffs in tensors.items()
    ]


def _decibels(value: float) -> str:
    return number(value, ".1f")


def _at_least(gate: float, value: float, shown: Callable[[float], str]) -> Cell:
    return Cell(text=shown(value), missed=not value >= gate)


def _at_most(gate: float, value: float) -> Cell:
    return Cell(text=number(value), missed=not value <= gate)
