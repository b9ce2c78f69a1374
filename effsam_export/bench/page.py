"""A benchmark as one HTML file: a chart of bars for each figure, and the tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from effsam_export.bench.results import TITLES
from effsam_export.bench.tasks import FIRST_MASK, decoder_task
from effsam_export.bench.text import (
    ABSENT,
    about,
    many_prompts_bytes,
    measured_how,
    megabytes,
    milliseconds,
)
from effsam_export.pages.page import cells, render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from effsam_export.bench.results import Benchmark, Measured
    from effsam_export.pages.page import Row

TEMPLATES = Path(__file__).resolve().parent / "templates"
WIDTH, LONGEST, ROW = 360, 250, 42
"""Pixels of a chart, of its longest bar, and from one bar to the next."""
NAME_LENGTH = 46
"""Characters of a bundle's name that fit above its bar."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bundle in a chart.

    Attributes:
        name: Its path, shortened at the start.
        value: The figure with its unit.
        length: Of the bar, in pixels.
        p90: End of the line to the 90th percentile; None for a figure without one.
        y: Top of its row.
    """

    name: str
    value: str
    length: float
    p90: float | None
    y: int

    @property
    def end(self) -> float:
        """Where the bar and its line end."""
        return max(self.length, self.p90 or 0.0)


@dataclass(frozen=True, kw_only=True)
class Chart:
    """The bars of one figure."""

    title: str
    bars: tuple[Bar, ...]

    @property
    def height(self) -> int:
        """Pixels of all rows."""
        return ROW * len(self.bars)


def page(benchmark: Benchmark) -> str:
    """Return the benchmark as one HTML document, to be written as UTF-8."""
    bundles = list(enumerate(benchmark.bundles, 1))
    return render(
        TEMPLATES,
        "bench.html.jinja",
        {
            "heading": "Benchmark of bundles"
            if len(bundles) > 1
            else f"Benchmark of {benchmark.bundles[0].subject.name}",
            "summary": summary(benchmark),
            "machine": benchmark.machine.sentence(),
            "image": f"{benchmark.image}, {benchmark.width}x{benchmark.height} pixels",
            "measured_how": measured_how(benchmark),
            "charts": _charts(benchmark),
            "width": WIDTH,
            "bundles": [(n, b.subject.name, about(b), b.notes) for n, b in bundles],
            "latency_rows": [row for n, b in bundles for row in _latency_rows(n, b)],
            "latency_columns": ("Bundle", "", *(f"{_heading(t)}, ms" for t in TITLES.values())),
            "size_rows": [_size_row(n, b) for n, b in bundles],
        },
    )


def summary(benchmark: Benchmark) -> str:
    """Return the main result as one sentence."""
    timed = [b for b in benchmark.bundles if FIRST_MASK in b.latencies]
    if not timed:
        return "No bundle was timed from an image to its first mask."
    best = min(timed, key=lambda b: b.latencies[FIRST_MASK].p50_s)
    first = f"{milliseconds(best.latencies[FIRST_MASK].p50_s)} ms"
    prompt = best.latencies.get(decoder_task(1))
    further = f", each further prompt {milliseconds(prompt.p50_s)} ms" if prompt else ""
    subject = f"{best.subject.name} takes {first} from an image to the first mask{further}"
    if len(timed) == 1:
        return f"{subject}."
    return f"{subject}: the lowest median of {len(timed)} bundles."


def _charts(benchmark: Benchmark) -> list[Chart]:
    charts = []
    for task, title in TITLES.items():
        rows = [(b, b.latencies[task]) for b in benchmark.bundles if task in b.latencies]
        values = [(b, v.p50_s, v.p90_s, f"{milliseconds(v.p50_s)} ms") for b, v in rows]
        charts.append(_chart(_heading(title), values))
    memory = [(b, b.one_prompt_bytes) for b in benchmark.bundles]
    sizes = [(b, b.subject.bytes) for b in benchmark.bundles]
    for title, figures in (("Peak memory, 1 prompt", memory), ("Size of the files", sizes)):
        charts.append(
            _chart(title, [(b, n, None, f"{megabytes(n)} MB") for b, n in figures if n is not None])
        )
    return [chart for chart in charts if chart.bars]


def _chart(title: str, values: Sequence[tuple[Measured, float, float | None, str]]) -> Chart:
    largest = max((max(value, p90 or 0.0) for _, value, p90, _ in values), default=0.0)
    scale = LONGEST / largest if largest > 0 else 0.0
    return Chart(
        title=title,
        bars=tuple(
            Bar(
                name=_short(bundle.subject.name),
                value=label,
                length=round(value * scale, 1),
                p90=None if p90 is None else round(p90 * scale, 1),
                y=i * ROW,
            )
            for i, (bundle, value, p90, label) in enumerate(values)
        ),
    )


def _heading(title: str) -> str:
    return title[0].upper() + title[1:]


def _short(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else f"…{name[1 - NAME_LENGTH :]}"


def _latency_rows(number: int, bundle: Measured) -> list[Row]:
    found = [bundle.latencies.get(task) for task in TITLES]
    if not any(found):
        return []
    p50 = [milliseconds(v.p50_s) if v else ABSENT for v in found]
    p90 = [milliseconds(v.p90_s) if v else ABSENT for v in found]
    return [(_row_name(number, bundle), cells("p50", *p50)), ("", cells("p90", *p90))]


def _row_name(number: int, bundle: Measured) -> str:
    return f"{number}. {_short(bundle.subject.name)}"


def _size_row(number: int, bundle: Measured) -> Row:
    return (
        _row_name(number, bundle),
        cells(
            megabytes(bundle.subject.bytes),
            megabytes(bundle.one_prompt_bytes),
            megabytes(many_prompts_bytes(bundle)),
            milliseconds(bundle.open_s),
        ),
    )
