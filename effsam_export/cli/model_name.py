"""The argument MODEL: a file or a bundle in its place is an error that says what to write."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer

from effsam_export.errors import UsageError, shown

MANIFEST = "manifest.json"
WEIGHT_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
WITHOUT_CHECKPOINT = ("fetch",)
"""Commands that take a MODEL and no --checkpoint."""


# Typer reads these annotations at run time, and Python 3.10 needs `Optional` there.
def check_model(ctx: typer.Context, name: Optional[str]) -> Optional[str]:  # noqa: UP045
    """Return the argument unchanged.

    Raises:
        UsageError: It names a weight file, another file or a folder, and no model.
    """
    if name is None or ctx.resilient_parsing:
        return name
    from effsam_export import models

    if name in models.MODELS:
        return name
    path = Path(name)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
        is_bundle = is_folder and (path / MANIFEST).is_file()
        # A folder of another kind may have a name that resembles a model's.
        has_weights = is_folder and any(p.suffix in WEIGHT_SUFFIXES for p in path.iterdir())
    except (OSError, ValueError):
        # A name that the system refuses.
        return name
    text, command = shown(name), ctx.info_name
    if is_bundle:
        if command == "bisect":
            return name
        raise UsageError(
            f"`{text}` is a bundle, which is exported already; MODEL is a name from `effsam list`",
            hint=f"`effsam inspect {text}` shows its model",
        )
    if has_weights or is_file or path.suffix.lower() in WEIGHT_SUFFIXES:
        kind = "folder" if is_folder else "file"
        use = "export" if command in WITHOUT_CHECKPOINT else command
        also = f"; `effsam info --checkpoint {text}` finds the model"
        raise UsageError(
            f"`{text}` is a {kind}; MODEL is a name from `effsam list`",
            hint=f"`effsam {use} MODEL --checkpoint {text}`{also}"
            if command != "info"
            else f"`effsam info --checkpoint {text}` says which model it is",
        )
    return name
