"""`effsam code`: generate the code that an app needs to run a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from effsam_export.cli.completion import languages
from effsam_export.cli.console import Console, data, document
from effsam_export.cli.options import BundleOrFile, Json, Quiet


def code(
    bundle: BundleOrFile,
    language: Annotated[
        str,
        typer.Option(
            "--language",
            "-l",
            help="python, cpp, js, swift or kotlin.",
            autocompletion=languages,
        ),
    ],
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Output folder [default: BUNDLE-LANGUAGE]."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite generated files.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write source code that runs a bundle in an app.

    Also writes a self-test that compares the device's masks with the bundle's golden masks.
    """
    from effsam_export import integrate
    from effsam_export.bundle import archive
    from effsam_export.integrate.write import code_for
    from effsam_export.util.files import require_output

    # Before the language becomes a part of a path.
    run = integrate.load(language).RUN
    source = bundle.resolve() if bundle.name in ("", "..") else bundle
    target = output or source.parent / f"{source.name.removesuffix(archive.SUFFIX)}-{language}"
    if not target.is_dir():
        require_output(target, directory=True)
    terminal = Console(quiet=quiet)
    with archive.opened(bundle) as path:
        files = code_for(path, language, target, force=force)
    terminal.message(f"wrote {', '.join(files)}")
    if json:
        document({"folder": str(target), "language": language, "files": list(files), "run": run})
    else:
        data(str(target))
    terminal.next(f"cd {target}; {run}")
