"""The option `--image-size`, and the size of a checkpoint where it is not given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from effsam_export.cli.console import Console
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.stages import Checkpoint

# Typer reads this annotation at run time, and Python 3.10 needs `Optional` there.
ImageSize = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--image-size",
        metavar="N|HxW",
        help="Size of the model's input in pixels [default: the size that the checkpoint shows, "
        "or that of the official weights].",
    ),
]


def with_size(spec: ModelSpec, text: str | None) -> ModelSpec:
    """Return the model with the input that `--image-size` asks for; unchanged without it.

    Raises:
        UsageError: Not a size, or the model cannot have that size.
    """
    if text is None:
        return spec
    from effsam_export.models import image_sizes

    return image_sizes.in_written_size(spec, text)


def with_size_of(spec: ModelSpec, checkpoint: Checkpoint, terminal: Console) -> ModelSpec:
    """Return the model in the size of a checkpoint, for a command without `--image-size`.

    Says which size was taken, unless the checkpoint is the official one.

    Raises:
        CheckpointError: The file cannot be read, or has no state dict.
    """
    from effsam_export.pipeline import image_size

    found = image_size.of_checkpoint(spec, checkpoint)
    if note := image_size.note_on(spec, found, checkpoint):
        terminal.message(f"note: {note}")
    return found
