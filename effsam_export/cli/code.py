"""`effsam code`: generate the code that an app needs to run a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from effsam_export.cli.completion import languages
from effsam_export.cli.console import Console, data, document
from effsam_export.cli.options import BundleOrFile, Json, Quiet, Verbose


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
    second: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(
            metavar="[BUNDLE2]",
            show_default=False,
            help="With --app: the same model in fp16 (WebGPU), or in fp32 or int8 (WebAssembly).",
        ),
    ] = None,
    app: Annotated[
        bool, typer.Option("--app", help="With js: a web page, with the model in it.")
    ] = False,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Output folder [default: BUNDLE-LANGUAGE]."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite generated files.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write source code that runs a bundle in an app.

    Also writes a self-test that compares the device's masks with the bundle's golden masks.
    """
    from contextlib import ExitStack

    from effsam_export import integrate
    from effsam_export.bundle import archive
    from effsam_export.errors import UsageError
    from effsam_export.integrate import web_app
    from effsam_export.integrate.write import code_for
    from effsam_export.util.files import require_output

    # Before the language becomes a part of a path.
    run = integrate.load(language).RUN
    if app and language != "js":
        raise UsageError(f"--app is for --language js, not {language}", hint="leave --app out")
    if second is not None and not app:
        raise UsageError("two bundles are for --app", hint="give one bundle, or add --app")
    source = bundle.resolve() if bundle.name in ("", "..") else bundle
    target = (
        output
        or source.parent
        / f"{source.name.removesuffix(archive.SUFFIX)}-{'app' if app else language}"
    )
    if not target.is_dir():
        require_output(target, directory=True)
    terminal = Console(quiet=quiet, verbose=verbose)
    with ExitStack() as stack:
        paths = [stack.enter_context(archive.opened(p)) for p in (bundle, second) if p is not None]
        if app:
            files, run = web_app.app_for(paths, target, force=force), web_app.RUN
        else:
            files = code_for(paths[0], language, target, force=force)
    terminal.message(f"wrote {', '.join(files)}")
    if json:
        document({"folder": str(target), "language": language, "files": list(files), "run": run})
    else:
        data(str(target))
    terminal.next(f"cd {target}; {run}")
