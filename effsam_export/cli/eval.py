"""`effsam eval`: mask IoU of bundles with annotated images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from effsam_export.cli import console, tables
from effsam_export.cli.options import CacheDir, Json, Quiet

if TYPE_CHECKING:
    from effsam_export.evaluate.results import Evaluation

MAX_IMAGES = 10_000_000
MAX_SEED = 2**32 - 1
INDENT = " " * 13
"""Of what follows the first word of a line."""


def evaluate(
    bundles: Annotated[
        list[Path],
        typer.Argument(
            metavar="BUNDLE...", help="The bundles' directories, or their .effsam.zip files."
        ),
    ],
    coco: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--coco",
            metavar="FILE",
            help="Annotations in COCO's format [default: those of the package's images].",
        ),
    ] = None,
    images: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--images", metavar="DIR", help="Folder of the images of --coco."),
    ] = None,
    prompts: Annotated[
        str,
        typer.Option(
            "--prompts",
            metavar="KIND,...",
            help="How to ask for an object: box, point, Npoints or Nclicks (N is 2 to 9).",
        ),
    ] = "box,point,3points",
    crowds: Annotated[
        bool, typer.Option("--crowds", help="Evaluate the annotations of crowds too.")
    ] = False,
    reference: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--reference",
            metavar="CHECKPOINT",
            help="Weight file of the bundles: evaluate the PyTorch model beside them.",
        ),
    ] = None,
    base: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--base", help="The file that the export of the bundles took as --base."),
    ] = None,
    lora: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--lora",
            metavar="FILE|DIR",
            help="The adapter that the export of the bundles took as --lora.",
        ),
    ] = None,
    limit: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--limit",
            min=1,
            max=MAX_IMAGES,
            help="Maximum number of images, chosen by --seed [default: all].",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            min=0,
            max=MAX_SEED,
            help="Of random points, the choice of images, and the intervals.",
        ),
    ] = 0,
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget the answers of an earlier run.")
    ] = False,
    record: Annotated[
        bool,
        typer.Option(
            "--record", help="Write the results into the manifests; not into signed ones."
        ),
    ] = False,
    html: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--html", metavar="FILE", help="Write a page with charts."),
    ] = None,
    markdown: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--markdown", metavar="FILE", help="Write a Markdown page."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    cache_dir: CacheDir = None,
) -> None:
    """Measure the mask IoU of bundles with annotated images.

    Every object is asked for in each way of --prompts. The best-scoring mask is compared with the
    annotated one: mean IoU (mIoU) with 95 % intervals, for all objects and by size. An interrupted
    evaluation goes on when the same command runs again.
    """
    from effsam_export.evaluate import run, text
    from effsam_export.evaluate.prompts import parse_kinds
    from effsam_export.util.files import require_output, write_whole
    from effsam_export.weights.fetch import default_cache_dir

    for path in (html, markdown):
        if path is not None:
            require_output(path)
    settings = run.Settings(
        prompts=parse_kinds(prompts),
        cache_dir=cache_dir or default_cache_dir(),
        coco=coco,
        images=images,
        crowds=crowds,
        checkpoint=reference,
        base=base,
        lora=lora,
        limit=limit,
        seed=seed,
        restart=restart,
        recorded=record,
    )
    terminal = console.Console(quiet=quiet)
    try:
        evaluation = run.evaluate(bundles, settings, terminal.on_event)
    finally:
        terminal.close()
    if html is not None:
        from effsam_export.evaluate import page

        write_whole(html, page.page(evaluation).encode("utf-8"))
    if markdown is not None:
        write_whole(markdown, text.markdown(evaluation).encode("utf-8", "replace"))
    if json:
        console.document(evaluation.document())
    else:
        console.data(_shown(evaluation))
    for path in (html, markdown):
        if path is not None:
            terminal.message(f"wrote {path}")
    if record:
        terminal.message(f"recorded in {', '.join(b.bundle for b in evaluation.bundles)}")


def _shown(evaluation: Evaluation) -> str:
    """Return the evaluation as text: a table for each bundle."""
    from effsam_export.evaluate import text

    width = tables.width_of(sys.stdout)
    lines = [
        tables.fill(f"annotations  {text.source(evaluation)}", width, INDENT),
        tables.fill(f"figures      {text.method(evaluation)}", width, INDENT),
    ]
    for evaluated in evaluation.bundles:
        about = (text.about(evaluated), *evaluated.notes)
        lines += ["", evaluated.bundle, *(tables.fill(line, width) for line in about)]
        lines.append(console.table(text.header(evaluated), text.rows(evaluated)))
    return "\n".join(lines)
