"""`effsam bench`: latency, memory and size of bundles, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from effsam_export.cli import console
from effsam_export.cli.options import Json, Quiet
from effsam_export.errors import CheckFailed

if TYPE_CHECKING:
    from effsam_export.bench.results import Benchmark

DEFAULT_IMAGE = "coffee.jpg"


def bench(
    bundles: Annotated[
        list[Path],
        typer.Argument(
            metavar="BUNDLE...", help="The bundles' directories, or their .effsam.zip files."
        ),
    ],
    threads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--threads",
            min=1,
            max=1024,
            help="Threads of each CPU runtime [default: the target's number, else the runtime's].",
        ),
    ] = None,
    warm_up: Annotated[
        int, typer.Option("--warm-up", min=0, max=1000, help="Calls before the timed ones.")
    ] = 2,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, max=10_000, help="Timed calls of each task.")
    ] = 10,
    image: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--image", help=f"Image to segment [default: {DEFAULT_IMAGE} of the package, 600x400]."
        ),
    ] = None,
    html: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--html", metavar="FILE", help="Write a page with a chart."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure latency, memory and size of bundles, side by side.

    The tasks: the encoder, the decoder for 1, 8 and 64 prompts, and the first mask, which is an
    image from its pixels to a mask at original size. Every bundle runs in its own process, and
    takes turns with the others. Nothing else should run on the machine.
    """
    from effsam_export.bench import run, text
    from effsam_export.config.toml import data_dir
    from effsam_export.util.files import require_output, write_whole

    if html is not None:
        require_output(html)
    settings = run.Settings(
        image=image or data_dir("calibration") / "images" / DEFAULT_IMAGE,
        warm_up=warm_up,
        repeats=repeats,
        threads=threads,
    )
    terminal = console.Console(quiet=quiet)
    try:
        benchmark = run.bench(bundles, settings, terminal.on_event)
    finally:
        terminal.close()
    if html is not None:
        from effsam_export.bench import page

        write_whole(html, page.page(benchmark).encode("utf-8"))
    if json:
        console.document(benchmark.document())
    else:
        console.data(text.text(benchmark))
    if html is not None:
        terminal.message(f"wrote {html}")
    _fail_if_incomplete(benchmark)


def _fail_if_incomplete(benchmark: Benchmark) -> None:
    """Raise `CheckFailed` if a bundle failed, or none could be timed."""
    if benchmark.failures:
        raise CheckFailed(
            f"{len(benchmark.failures)} of {len(benchmark.bundles)} bundles failed:",
            lines=benchmark.failures,
            hint="`effsam verify BUNDLE` checks a bundle",
        )
    if not benchmark.timed:
        raise CheckFailed(
            "no bundle can be timed on this machine:",
            lines=[f"`{b.subject.name}`: {b.subject.obstacle}" for b in benchmark.bundles],
            hint="run `effsam bench` on the target's own device",
        )
