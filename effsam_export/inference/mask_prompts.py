"""Read the mask of a prompt from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.errors import PromptError
from effsam_export.imaging import arrays
from effsam_export.spec.sizes import sides

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.sizes import Size
    from effsam_export.spec.tensors import Float32


def load_mask_input(path: Path, size: Size) -> Float32:
    """Read the logits SxS of the best mask from a file that `effsam run --masks` wrote.

    Args:
        path: The .npz file.
        size: Size of the model's mask logits.

    Raises:
        PromptError: The file does not exist, is damaged, or contains no finite FP32 logits of this
            size.
    """
    hint = "give a file written by `effsam run --masks`"
    height, width = sides(size)
    try:
        logits = arrays.read_member(path, "low_res_masks")
    except (OSError, ValueError) as error:
        reason = "does not exist" if not path.exists() else f"cannot be read: {error}"
        raise PromptError(f"mask file `{path}` {reason}", hint=hint) from error
    if logits is None:
        raise PromptError(f"mask file `{path}` has no `low_res_masks`", hint=hint)
    if logits.ndim != 3 or not len(logits) or logits.shape[1:] != (height, width):
        raise PromptError(
            f"mask file `{path}` holds logits of shape {list(logits.shape)}, "
            f"want Kx{height}x{width}",
            hint=hint,
        )
    try:
        return arrays.to_float32(logits[0])
    except ValueError as error:
        raise PromptError(f"mask file `{path}` holds {error}", hint=hint) from error
