"""A benchmark as text of at most 80 columns."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from effsam_export.bench.results import TITLES
from effsam_export.bench.tasks import decoder_task

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from effsam_export.bench.results import Benchmark, Measured

WIDTH = 80
ABSENT = "-"


def text(benchmark: Benchmark) -> str:
    """Return the machine, the bundles by number, and their figures as tables."""
    lines = [
        *wrapped("machine   ", benchmark.machine.sentence()),
        *wrapped("image     ", f"{benchmark.image}, {benchmark.width}x{benchmark.height}"),
        *wrapped("measured  ", measured_how(benchmark)),
    ]
    for number, bundle in enumerate(benchmark.bundles, 1):
        lines += ["", f"{number}  {bundle.subject.name}"]
        for line in (about(bundle), *bundle.notes):
            lines += wrapped("   ", line)
    if benchmark.timed:
        header = ("ms", "", *TITLES.values())
        lines += ["", *table(header, list(_latency_rows(benchmark)))]
    header = ("", "files, MB", "memory, MB", "with 64 prompts", "open, ms")
    lines += ["", *table(header, list(_size_rows(benchmark)))]
    return "\n".join(lines)


def about(bundle: Measured) -> str:
    """Return what a bundle is and what runs it."""
    subject = bundle.subject
    what = f"{subject.model} for {subject.target}, {subject.precision}"
    if subject.obstacle:
        return what
    threads = {None: "default threads", 1: "1 thread"}
    return f"{what}; {subject.runtime}, " + threads.get(
        subject.threads, f"{subject.threads} threads"
    )


def measured_how(benchmark: Benchmark) -> str:
    """Return how often each task was measured."""
    calls = "1 call" if benchmark.repeats == 1 else f"{benchmark.repeats} calls"
    return (
        f"{calls} of each task after {benchmark.warm_up} to warm up; the bundles take turns, each "
        "in its own process"
    )


def milliseconds(seconds: float | None) -> str:
    """Return a time as a table shows it: with one decimal below ten seconds."""
    if seconds is None:
        return ABSENT
    value = 1e3 * seconds
    return f"{value:.1f}" if value < 1e4 else f"{value:.0f}"


def megabytes(count: int | None) -> str:
    """Return a size in MB of 1e6 bytes as a table shows it."""
    if count is None:
        return ABSENT
    value = count / 1e6
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def many_prompts_bytes(bundle: Measured) -> int | None:
    """Return the peak memory with 64 prompts; None for a bundle without a decoder."""
    return bundle.peak_bytes if decoder_task(64) in bundle.latencies else None


def _latency_rows(benchmark: Benchmark) -> Iterator[list[str]]:
    for number, bundle in enumerate(benchmark.bundles, 1):
        found = [bundle.latencies.get(task) for task in TITLES]
        if any(found):
            p50 = [milliseconds(v.p50_s if v else None) for v in found]
            p90 = [milliseconds(v.p90_s if v else None) for v in found]
            yield [str(number), "p50", *p50]
            yield ["", "p90", *p90]


def _size_rows(benchmark: Benchmark) -> Iterator[list[str]]:
    for number, bundle in enumerate(benchmark.bundles, 1):
        yield [
            str(number),
            megabytes(bundle.subject.bytes),
            megabytes(bundle.one_prompt_bytes),
            megabytes(many_prompts_bytes(bundle)),
            milliseconds(bundle.open_s),
        ]


def wrapped(label: str, content: str) -> list[str]:
    """Return the lines of a labelled text, which is indented below its label.

    A word that is longer than a line, such as a path, stays whole.
    """
    return textwrap.wrap(
        content,
        WIDTH,
        initial_indent=label,
        subsequent_indent=" " * len(label),
        break_long_words=False,
        break_on_hyphens=False,
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, *rows)
    ]
