"""Options that more than one command has, defined once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

# Typer reads these annotations at run time on Python 3.10, so they are spelt the old way.
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors and data.")]
CacheDir = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--cache-dir",
        envvar="EFFSAM_CACHE_DIR",
        help="Where fetched checkpoints are kept [default: the user's cache].",
    ),
]
CheckpointFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--checkpoint", help="The authors' weight file [default: fetch it]."),
]
ParityFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--parity",
        help="TOML file with your own photographs and prompts to judge by "
        "[default: those that ship].",
    ),
]
AcceptLicense = Annotated[
    bool,
    typer.Option(
        "--accept-license", help="Consent to a licence that is not free; asked for once a model."
    ),
]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A name from `effsam list`.")]
BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Directory of a bundle.")]
