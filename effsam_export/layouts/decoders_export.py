"""What the export forms of the layouts share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from effsam_export.models.sam.export import ExportDecoder, WithStability
from effsam_export.models.sam.slots import EMPTY

if TYPE_CHECKING:
    from torch import Tensor, nn

CORNER, PADDING = 2, -1
"""Labels of the first corner of a box, and of SAM's padding point."""


def inner_decoder(decoder: nn.Module) -> tuple[ExportDecoder, float | None]:
    """Return SAM's decoder, and the offset of the stability that ranks its masks, or None."""
    if isinstance(decoder, WithStability):
        return decoder.decoder, decoder.offset
    assert isinstance(decoder, ExportDecoder)
    return decoder, None


def with_padding(points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Add one point to each prompt: SAM's padding point, or an empty slot to a prompt with a box.

    Args:
        points: PxNx2.
        labels: PxN, in the type of the points.

    Returns:
        Points Px(N+1)x2 and labels Px(N+1), for a decoder with empty slots.
    """
    boxes = (labels == CORNER).to(labels.dtype).amax(1, keepdim=True)
    labels = torch.cat([labels, PADDING + (EMPTY - PADDING) * boxes], dim=1)
    return torch.cat([points, torch.zeros_like(points[:, :1])], dim=1), labels


def stability(masks: Tensor, offset: float) -> Tensor:
    """Return the stability of masks BxKxHxW, as `WithStability` computes it."""
    inside = (masks > offset).to(masks.dtype).mean((2, 3))
    around = (masks > -offset).to(masks.dtype).mean((2, 3))
    return inside / (around + (around == 0).to(around.dtype))
