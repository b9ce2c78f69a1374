"""The figures of `benchmarks.speed` as Markdown and as a chart."""

from __future__ import annotations

from html import escape
from typing import Any

from benchmarks.timing import figure, ratio
from effsam_export import models

WIDTH, LABEL, BAR, ROW, TITLE = 760, 240, 380, 22, 40
"""Pixels of the chart, of its names, of its longest bar, of a row, and of a title."""
COLOURS = {"ours": "#2a6fbb", "plain": "#9aa5b1", "samexporter-style": "#d08a3c"}
CHARTED = ("encoder", "decoder, 1 prompt", "decoder, 64 prompts", "first mask")
HEAD = (
    *("", "median ms", "min ms", "speed-up", "over best plain", "GFLOP/s"),
    *("mean IoU", "min IoU", "MB", "masks"),
)


def markdown(document: dict[str, Any], *, chart: str | None) -> str:
    """Return the tables, with the machine and its peak first.

    Args:
        document: What `speed.run` returned.
        chart: Path of the chart beside the Markdown; None for none.
    """
    about = document["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items() if v)
    lines = [
        "# Speed beside plain conversions",
        "",
        f"`{document['command']}` at commit `{document['commit'] or 'unknown'}`.",
        "",
        f"{about['cpu']}, {about['cores']} cores ({' '.join(about['flags'])}), load "
        f"{about['load_average_1min']} before the run; {versions}; {document['repeats']} rounds.",
        "",
        "*Speed-up* is the median time of the plain conversion in the same runtime divided by the "
        "contender's, *over best plain* that of the fastest plain conversion of any runtime; above "
        "1 is faster. The IoU is that of the contender's masks, encoder and decoder together, with "
        "PyTorch's. samexporter's decoder also resizes its masks to the original size.",
    ]
    if chart is not None:
        lines += ["", f"![Speed-up over the plain conversion]({chart})"]
    for model, official in document["official_weights"].items():
        rows = [r for r in document["rows"] if r["model"] == model]
        peaks = [f"{r['runtime']} {r['gflops']:.0f}" for r in rows if r["task"] == "peak"]
        weights = "official weights" if official else "deterministic weights"
        lines += ["", f"## {model}, {weights}", ""]
        threads = document["torch_threads"]
        said = "1 thread" if threads == 1 else f"{threads} threads"
        lines += [f"Peak of this run in GFLOP/s, FP32 in torch, {said}: {', '.join(peaks)}."]
        for task in dict.fromkeys(r["task"] for r in rows if r["task"] != "peak"):
            lines += ["", f"### {task[0].upper()}{task[1:]}", ""]
            lines += table([r for r in rows if r["task"] == task])
    return "\n".join(lines) + "\n"


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of one task's table."""
    lines = [f"| {' | '.join(HEAD)} |", f"| --- |{' ---: |' * (len(HEAD) - 1)}"]
    for r in rows:
        cells = [
            name_of(r),
            figure(None if r["median_s"] is None else 1e3 * r["median_s"], 1),
            figure(None if r["minimum_s"] is None else 1e3 * r["minimum_s"], 1),
            figure(speed_up(r, rows)),
            figure(speed_up(r, rows, any_runtime=True)),
            figure(r["gflops"], 0),
            figure(r["mean_iou"], 4),
            figure(r["min_iou"], 4),
            figure(r["bytes"] / 1e6 if r["bytes"] else None, 1),
            figure(r["masks"], 0),
        ]
        if r["problem"]:
            cells[1] = r["problem"].replace("|", "/")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def name_of(row: dict[str, Any]) -> str:
    """Return the name of a contender."""
    return f"{row['kind']}, {row['runtime']} {row['precision']}"


def speed_up(
    row: dict[str, Any], rows: list[dict[str, Any]], *, any_runtime: bool = False
) -> float | None:
    """Return how many times faster a contender is than the plain conversion; None for none."""
    times = [
        r["median_s"]
        for r in rows
        if (r["model"], r["task"], r["kind"]) == (row["model"], row["task"], "plain")
        and r["median_s"] is not None
        and (any_runtime or r["runtime"] == row["runtime"])
    ]
    return ratio(min(times), row["median_s"]) if times and row["median_s"] else None


def chart(document: dict[str, Any]) -> str:
    """Return bars of the speed-up over the plain conversion in the same runtime, as SVG."""
    parts: list[str] = []
    y = 0
    for model in document["official_weights"]:
        for task in CHARTED:
            rows = [r for r in document["rows"] if (r["model"], r["task"]) == (model, task)]
            bars = [(r, value) for r in rows if (value := speed_up(r, rows)) is not None]
            if not bars:
                continue
            title = f"{models.get(model).title}: {task}"
            parts.append(f'<text x="0" y="{y + 26}" class="title">{escape(title)}</text>')
            y += TITLE
            scale = BAR / max(value for _, value in bars)
            # A line at 1: as fast as the plain conversion.
            one = LABEL + scale
            end = y + ROW * len(bars)
            parts.append(f'<line x1="{one:.1f}" x2="{one:.1f}" y1="{y}" y2="{end}"/>')
            for row, value in bars:
                colour = COLOURS[row["kind"]]
                parts.append(
                    f'<text x="{LABEL - 8}" y="{y + 15}" text-anchor="end">'
                    f"{escape(name_of(row))}</text>"
                    f'<rect x="{LABEL}" y="{y + 3}" width="{value * scale:.1f}" height="16" '
                    f'fill="{colour}"/>'
                    f'<text x="{LABEL + value * scale + 6:.1f}" y="{y + 15}">{value:.2f}</text>'
                )
                y += ROW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 8}" '
        f'viewBox="0 0 {WIDTH} {y + 8}">\n'
        "<style>text{font:12px sans-serif;fill:#222}.title{font-weight:bold}"
        "line{stroke:#222;stroke-dasharray:3}</style>\n"
        f'<rect width="{WIDTH}" height="{y + 8}" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
