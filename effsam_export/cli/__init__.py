"""The command line. Each command parses its options, calls one function and prints the result."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from effsam_export._version import __version__
from effsam_export.cli import console, streams
from effsam_export.cli.commands import Commands
from effsam_export.cli.help import SETTINGS
from effsam_export.util import signals
from effsam_export.util.reasons import as_effsam_error

TRACEBACK = "EFFSAM_TRACEBACK"
"""Environment variable: if it is set, every error is shown with its traceback."""

app = typer.Typer(
    name="effsam",
    cls=Commands,
    context_settings=SETTINGS,
    help="Export efficient Segment-Anything models, and check their masks against PyTorch.",
    epilog=(
        "`effsam COMMAND --help` explains a command and shows an example.\n\n"
        "Exit codes: 0 success; 1 a check failed; 2 wrong usage, input or configuration; "
        "3 a required package is missing."
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
    # A traceback is a bug in this package: print it without decoration, for the issue report.
    pretty_exceptions_enable=False,
)


def _version(value: bool) -> None:
    if value:
        console.data(f"effsam {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    del version


def main() -> None:
    """Run the command line; print an error, and exit with its code.

    A failure of the system, such as a full disk, is an error too. Any other exception is a bug of
    this package, and keeps its traceback. A signal exits with 128 + its number, after everything
    that was being written was removed.
    """
    streams.prepare()
    try:
        with signals.raised():
            app()
    except signals.Stopped as stop:
        console.stopped(stop.signal.name)
        signals.leave(128 + stop.signal)
    except Exception as failure:
        problem = as_effsam_error(failure)
        if problem is None:
            raise
        if os.environ.get(TRACEBACK):
            import traceback

            traceback.print_exc()
        console.error(problem)
        sys.exit(problem.exit_code)
    finally:
        streams.finish()
