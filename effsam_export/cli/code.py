"""`effsam code`: what an app needs around a bundle, written from its contract."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from effsam_export.cli.console import Console, data
from effsam_export.cli.options import BundleOrFile, Quiet


def code(
    bundle: BundleOrFile,
    language: Annotated[
        str, typer.Option("--language", "-l", help="python, cpp, js, swift or kotlin.")
    ],
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="The folder [default: BUNDLE-LANGUAGE]."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace generated files that are there.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write code that runs a bundle, and a self-test that proves it on a device."""
    from effsam_export import integrate
    from effsam_export.bundle import archive
    from effsam_export.integrate.write import code_for

    place = bundle.resolve() if bundle.name in ("", "..") else bundle
    target = output or place.with_name(f"{place.name.removesuffix(archive.SUFFIX)}-{language}")
    console = Console(quiet=quiet)
    with archive.opened(bundle) as path:
        files = code_for(path, language, target, force=force)
    console.message(f"wrote {', '.join(files)}")
    data(str(target))
    console.next(f"cd {target}; {integrate.load(language).RUN}")
