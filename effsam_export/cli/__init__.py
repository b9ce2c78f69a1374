"""The command line: parse, call one function, print. Errors become exit codes only here."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from effsam_export._version import __version__
from effsam_export.cli import console
from effsam_export.cli.commands import Commands
from effsam_export.errors import EffsamError

app = typer.Typer(
    name="effsam",
    cls=Commands,
    help="Export efficient Segment-Anything models, with proof that they still segment.",
    epilog=(
        "Exit codes: 0 done; 1 a check failed; 2 usage, input or configuration; "
        "3 a toolchain is missing."
    ),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    # A traceback that reaches the user is a bug, and is printed plainly.
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
    """Run the command line and exit with the code of what went wrong, if anything did."""
    try:
        app()
    except EffsamError as problem:
        console.error(problem)
        sys.exit(problem.exit_code)
