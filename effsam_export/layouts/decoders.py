"""What the export forms of the layouts share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.models.sam.export import ExportDecoder, WithStability

if TYPE_CHECKING:
    from torch import Tensor, nn


def inner_decoder(decoder: nn.Module) -> tuple[ExportDecoder, float | None]:
    """Return SAM's decoder, and the offset of the stability that ranks its masks, or None."""
    if isinstance(decoder, WithStability):
        return decoder.decoder, decoder.offset
    assert isinstance(decoder, ExportDecoder)
    return decoder, None


def stability(masks: Tensor, offset: float) -> Tensor:
    """Return the stability of masks BxKxHxW, as `WithStability` computes it."""
    inside = (masks > offset).to(masks.dtype).mean((2, 3))
    around = (masks > -offset).to(masks.dtype).mean((2, 3))
    return inside / (around + (around == 0).to(around.dtype))
