"""An evaluation as one HTML file: charts of bars and of distributions, and the tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from effsam_export.evaluate import text
from effsam_export.evaluate.results import SIZES
from effsam_export.pages.page import cells, render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from effsam_export.evaluate.results import Evaluated, Evaluation, Result
    from effsam_export.pages.page import Row

TEMPLATES = Path(__file__).resolve().parent / "templates"
WIDTH, LONGEST, ROW = 360, 250, 42
"""Pixels of a chart, of a bar for an IoU of 1, and from one bar to the next."""
PLOT, TICKS = 200, (0.0, 0.5, 1.0)
"""Height in pixels of a plot of distributions, and the labelled values of its axes."""
NAME_LENGTH = 46
"""Characters of a bar's name that fit above it."""
LINES = ("line", "line dashed", "line dotted")
"""Classes of the lines of a plot, which are repeated in turn."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One mean in a chart.

    Attributes:
        name: What it is the mean of.
        value: The mean as text.
        length: Of the bar, in pixels.
        interval: Start and end of the line of its interval in pixels; None without one.
        y: Top of its row.
    """

    name: str
    value: str
    length: float
    interval: tuple[float, float] | None
    y: int

    @property
    def end(self) -> float:
        """Where the bar and its line end."""
        return max(self.length, self.interval[1] if self.interval else 0.0)


@dataclass(frozen=True, kw_only=True)
class Chart:
    """The bars of one kind of prompt."""

    title: str
    bars: tuple[Bar, ...]

    @property
    def height(self) -> int:
        """Pixels of all rows."""
        return ROW * len(self.bars)


@dataclass(frozen=True, kw_only=True)
class Line:
    """The distribution of the IoU of one bundle, or of PyTorch.

    Attributes:
        name: Whose distribution it is.
        kind: Classes of the style sheet.
        points: The polyline in pixels of the plot.
    """

    name: str
    kind: str
    points: str


@dataclass(frozen=True, kw_only=True)
class Plot:
    """The distributions of one kind of prompt."""

    title: str
    lines: tuple[Line, ...]


def page(evaluation: Evaluation) -> str:
    """Return the evaluation as one HTML document, to be written as UTF-8."""
    bundles = list(enumerate(evaluation.bundles, 1))
    return render(
        TEMPLATES,
        "evaluate.html.jinja",
        {
            "heading": "Evaluation of bundles"
            if len(bundles) > 1
            else f"Evaluation of {evaluation.bundles[0].bundle}",
            "summary": summary(evaluation),
            "source": text.source(evaluation),
            "machine": evaluation.machine.sentence(),
            "method": text.method(evaluation),
            "charts": [_chart(prompt, bundles) for prompt in evaluation.prompts],
            "plots": [_plot(prompt, bundles) for prompt in evaluation.prompts],
            "width": WIDTH,
            "plot": PLOT,
            "longest": LONGEST,
            "ticks": TICKS,
            "bundles": [
                (n, b.bundle, text.about(b), b.notes, text.header(b), _rows(b)) for n, b in bundles
            ],
        },
    )


def summary(evaluation: Evaluation) -> str:
    """Return the main result as one sentence: the highest mIoU of each kind of prompt."""
    parts = []
    for prompt in evaluation.prompts:
        best = [
            (r.miou, b.bundle)
            for b in evaluation.bundles
            for r in b.results
            if r.prompt == prompt and r.size == "all"
        ]
        miou, name = max(best, key=lambda pair: pair[0])
        parts.append(
            f"{miou:.4f} with {prompt} ({name})" if len(best) > 1 else f"{miou:.4f} with {prompt}"
        )
    what = "Highest mIoU" if len(evaluation.bundles) > 1 else "mIoU"
    return f"{what}: {', '.join(parts)}."


def _chart(prompt: str, bundles: Sequence[tuple[int, Evaluated]]) -> Chart:
    bars: list[Bar] = []
    for size in SIZES:
        for number, bundle in bundles:
            for result in bundle.results:
                if (result.prompt, result.size) == (prompt, size):
                    bars.append(_bar(result, number, bundle, ROW * len(bars)))
    return Chart(title=f"mIoU, prompt: {prompt}", bars=tuple(bars))


def _bar(result: Result, number: int, bundle: Evaluated, y: int) -> Bar:
    limits = result.interval
    name = f"{result.size}, {result.objects} objects: {number}. {bundle.bundle}"
    return Bar(
        name=_short(name),
        value=f"{result.miou:.4f}",
        length=round(LONGEST * result.miou, 1),
        interval=None
        if limits is None
        else (round(LONGEST * limits[0], 1), round(LONGEST * limits[1], 1)),
        y=y,
    )


def _plot(prompt: str, bundles: Sequence[tuple[int, Evaluated]]) -> Plot:
    lines: list[Line] = []
    for number, bundle in bundles:
        found = [m for m in bundle.measurements if m.prompt == prompt]
        name = f"{number}. {bundle.bundle}"
        lines.append(_line(name, [m.iou for m in found], len(lines)))
        beside = [m.reference_iou for m in found if m.reference_iou is not None]
        if beside:
            lines.append(_line(f"{number}. PyTorch", beside, len(lines)))
    return Plot(
        title=f"Share of objects with at least this IoU, prompt: {prompt}", lines=tuple(lines)
    )


def _line(name: str, values: Sequence[float], number: int) -> Line:
    """Return the line of the share of values that are at least x, in a hundred steps."""
    points = []
    for step in range(101):
        share = sum(value >= step / 100 for value in values) / len(values)
        points.append(f"{LONGEST * step / 100:.1f},{PLOT * (1 - share):.1f}")
    return Line(name=_short(name), kind=LINES[number % len(LINES)], points=" ".join(points))


def _short(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"


def _rows(bundle: Evaluated) -> list[Row]:
    return [(first, cells(*others)) for first, *others in text.rows(bundle)]
