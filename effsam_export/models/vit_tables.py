"""Position tables of SAM's ViT in a checkpoint: the size of input that they are for, and resizing.

A table of absolute positions has a row for each cell of the map, so it shows the size of the input.
Relative positions of the blocks with attention over the whole map have 2 * side - 1 rows; those of
windows are the same for any input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.models.sam.components import GRID_STRIDE
from effsam_export.spec.sizes import divided, of_sides, sides

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from effsam_export.spec.sizes import Size

ABSOLUTE = "image_encoder.pos_embed"


def size_of(state: Mapping[str, Tensor]) -> Size | None:
    """Return the size of the input of a state dict with the authors' names.

    None if it has no table of absolute positions on a map.
    """
    table = _table(state, ABSOLUTE, 4)
    if table is None:
        return None
    return of_sides(GRID_STRIDE * int(table.shape[1]), GRID_STRIDE * int(table.shape[2]))


def fitted(
    global_blocks: Sequence[int], size: Size, state: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """Return a state dict with its position tables resized to another size of input.

    Absolute positions are resized bicubically. Relative ones are resized linearly, as the authors'
    `get_rel_pos` does at every call. Tables that have the size already are unchanged.

    Args:
        global_blocks: Indices of the blocks with attention over the whole map.
        size: Size of the input.
        state: With the authors' names.
    """
    grid = sides(divided(size, GRID_STRIDE))
    out = dict(state)
    table = _table(state, ABSOLUTE, 4)
    if table is not None and table.shape[1:3] != grid:
        out[ABSOLUTE] = _resized_map(table, grid)
    for block in global_blocks:
        for axis, side in zip("hw", grid, strict=True):
            name = f"image_encoder.blocks.{block}.attn.rel_pos_{axis}"
            table = _table(state, name, 2)
            if table is not None and table.shape[0] != 2 * side - 1:
                out[name] = _resized_rows(table, 2 * side - 1)
    return out


def _table(state: Mapping[str, Tensor], name: str, axes: int) -> Tensor | None:
    """Return a table of numbers with so many axes; None if the state dict has no such table."""
    table = state.get(name)
    if table is None or table.ndim != axes or not table.numel() or not table.is_floating_point():
        return None
    return table


def _resized_map(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize 1xHxWxC bicubically to a map of another height and width."""
    from torch.nn.functional import interpolate

    maps = table.float().permute(0, 3, 1, 2)
    resized = interpolate(maps, size=grid, mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).contiguous()


def _resized_rows(table: Tensor, rows: int) -> Tensor:
    """Resize LxC to `rows` x C linearly."""
    from torch.nn.functional import interpolate

    stretched = interpolate(table.float().T.unsqueeze(0), size=rows, mode="linear")
    return stretched[0].T.contiguous()
