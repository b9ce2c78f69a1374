"""The command line: parse, call one function, print. Errors become exit codes only here."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from effsam_export import __version__, console
from effsam_export.cli import (
    bisect,
    build,
    bundles,
    catalogue,
    code,
    export,
    fetch,
    info,
    lint,
    run,
    verify,
)
from effsam_export.errors import EffsamError

app = typer.Typer(
    name="effsam",
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


app.command("list")(catalogue.list_models)
app.command("targets")(catalogue.list_targets)
app.command("info")(info.info)
app.command("doctor")(catalogue.doctor)
app.command("fetch")(fetch.fetch)
app.command("lint")(lint.lint)
app.command("export")(export.export)
app.command("build")(build.build)
app.command("worker")(build.serve)
app.command("bisect")(bisect.bisect)
app.command("run")(run.run)
app.command("verify")(verify.verify)
app.command("inspect")(bundles.inspect)
app.command("diff")(bundles.diff)
app.command("pack")(bundles.pack)
app.command("unpack")(bundles.unpack)
app.command("sign")(bundles.sign)
app.command("attest")(bundles.attest)
app.command("code")(code.code)


def main() -> None:
    """Run the command line and exit with the code of what went wrong, if anything did."""
    try:
        app()
    except EffsamError as problem:
        console.error(problem)
        sys.exit(problem.exit_code)
