"""The command line. Each command parses its options, calls one function and prints the result."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from effsam_export._version import __version__
from effsam_export.cli import console
from effsam_export.cli.commands import Commands
from effsam_export.errors import EffsamError
from effsam_export.util import signals

app = typer.Typer(
    name="effsam",
    cls=Commands,
    help="Export efficient Segment-Anything models, and check their masks against PyTorch.",
    epilog=(
        "Exit codes: 0 success; 1 a check failed; 2 wrong usage, input or configuration; "
        "3 a required package is missing."
    ),
    no_args_is_help=True,
    add_completion=False,
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
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del version


def main() -> None:
    """Run the command line; on an `EffsamError`, print it and exit with its code.

    A signal exits with 128 + its number, after everything that was being written was removed.
    """
    try:
        with signals.raised():
            app()
    except signals.Stopped as stop:
        console.stopped(stop.signal.name)
        signals.leave(128 + stop.signal)
    except EffsamError as problem:
        console.error(problem)
        sys.exit(problem.exit_code)
