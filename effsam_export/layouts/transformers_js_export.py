"""SAM for export in the layout of Transformers.js: the modules share the weights of our forms.

Their sub-modules have the paths of those forms, by which recipes for FP16 and INT8 select layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effsam_export.layouts.decoders_export import inner_decoder, stability, with_padding
from effsam_export.models.sam.export import ExportDecoder, ExportEncoder
from effsam_export.models.sam.slots import EMPTY, closed_slots

NO_POINT = -10
"""The library's label of a point that is to be ignored."""


class VisionEncoder(nn.Module):
    """`pixel_values` (normalised and padded) to the embedding and the positions of its cells."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        assert isinstance(encoder, ExportEncoder)
        self.image_encoder = encoder.image_encoder
        self.dense_pe = inner_decoder(decoder)[0].dense_pe

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        embedding: Tensor = self.image_encoder(pixel_values)
        positions: Tensor = self.dense_pe()
        return embedding, positions


class PromptDecoder(ExportDecoder):
    """Prompts of one image to SAM's three masks for each.

    Adds the padding point to each prompt without a box. Points of label -10 are masked out of the
    attention, so that a prompt has the masks that it has without them.
    """

    def __init__(self, decoder: nn.Module) -> None:
        nn.Module.__init__(self)
        inner, self.offset = inner_decoder(decoder)
        for name, module in inner.named_children():
            if name != "dense_pe":
                self.add_module(name, module)

    def forward(  # type: ignore[override]  # other inputs
        self,
        input_points: Tensor,
        input_labels: Tensor,
        image_embeddings: Tensor,
        image_positional_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor]:
        labels = input_labels[0].to(input_points.dtype)  # prompts x points
        labels = torch.where(labels == NO_POINT, torch.full_like(labels, EMPTY), labels)
        points, labels = with_padding(input_points[0], labels)
        sparse = self.embed_points(points, labels)
        decoder = self.mask_decoder
        tokens = torch.cat([decoder.output_tokens(sparse.shape[0]), sparse], dim=1)
        image = image_embeddings + self.no_mask
        closed = closed_slots(tokens, labels)
        hs, src = decoder.transformer(image, image_positional_embeddings, tokens, closed)
        height, width = image_embeddings.shape[-2:]
        masks, scores = decoder.heads(hs, src, (height, width))
        if self.offset is not None:
            scores = stability(masks, self.offset)
        return scores[None, :, 1:], masks[None, :, 1:]
