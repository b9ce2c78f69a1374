"""The decoder for a fixed number of point slots, some of which may be empty.

In SAM's decoder, tokens attend to all others, including padding points of label -1. More padding
points would thus change the masks. Empty slots have the label -2 instead, and are masked out of
the two attentions whose keys are tokens: among the tokens, and from the image to the tokens. The
outputs for an empty slot are not used.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effsam_export.models.sam.export import ExportDecoder, WithStability

EMPTY = -2
"""Label of a slot without a point."""

CLOSED = -3e4
"""Added to the score of an empty slot: its exp is 0 in FP32 and FP16, and it fits into FP16."""


class SlottedDecoder(ExportDecoder):
    """A decoder for prompts with empty slots among their points.

    Given: tokens of a prompt, to which all attend
    Result: tokens of all slots; none attends to those of label -2; the same masks
    """

    def __init__(self, decoder: ExportDecoder) -> None:
        nn.Module.__init__(self)
        for name, module in decoder.named_children():
            self.add_module(name, module)

    def attend(
        self,
        image_embeddings: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        tokens: Tensor,
        labels: Tensor,
    ) -> tuple[Tensor, Tensor]:
        # One prompt has nothing to share.
        image = image_embeddings + self.embed_masks(mask_input, has_mask_input)
        out: tuple[Tensor, Tensor] = self.mask_decoder.transformer(
            image, self.dense_pe(), tokens, closed_slots(tokens, labels)
        )
        return out


def closed_slots(tokens: Tensor, labels: Tensor) -> Tensor:
    """Return what closes empty slots: added to the scores of tokens as keys, Bx1x1xT.

    Args:
        tokens: BxTxC; the last N are those of the slots.
        labels: BxN.
    """
    empty = (labels == EMPTY).to(tokens.dtype) * CLOSED
    own = empty.new_zeros(empty.shape[0], tokens.shape[1] - empty.shape[1])
    return torch.cat([own, empty], dim=1)[:, None, None, :]


def with_empty_slots(decoder: nn.Module) -> nn.Module:
    """Return a decoder for export that accepts empty slots."""
    if isinstance(decoder, WithStability):
        inner = with_empty_slots(decoder.decoder)
        assert isinstance(inner, ExportDecoder)
        return WithStability(inner, decoder.offset)
    assert isinstance(decoder, ExportDecoder)
    return SlottedDecoder(decoder)
