"""`effsam merge-layout`: put bundles of several precisions into one folder of an app."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from effsam_export.cli.console import Console, data
from effsam_export.cli.options import Quiet


def merge_layout(
    bundles: Annotated[
        list[Path],
        typer.Argument(metavar="BUNDLE...", help="Bundles of one model, or .effsam.zip files."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    quiet: Quiet = False,
) -> None:
    """Put bundles of several precisions into one folder of an app.

    The bundles are of one model and one checkpoint, exported with `--target transformers-js` in
    FP32, FP16 and INT8. The library chooses among the graphs by the ends of their names.
    """
    from contextlib import ExitStack

    from effsam_export.bundle import archive
    from effsam_export.bundle.merge import merge
    from effsam_export.util.files import require_output

    if not output.is_dir():
        require_output(output, directory=True)
    terminal = Console(quiet=quiet)
    with ExitStack() as stack:
        names = merge([stack.enter_context(archive.opened(b)) for b in bundles], output)
    terminal.message(f"wrote {', '.join(names)}")
    data(str(output))
