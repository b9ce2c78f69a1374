"""A Segment-Anything model as in the authors' code: image encoder, prompt encoder, mask decoder.

Source: facebookresearch/segment-anything, `segment_anything/modeling/sam.py`. This is the
reference of every parity check, so nothing here is changed for export.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from effsam_export.models.sam.mask_decoder import MaskDecoder
from effsam_export.models.sam.prompt_encoder import PromptEncoder
from effsam_export.spec.sizes import divided, sides

if TYPE_CHECKING:
    from effsam_export.spec.prompts import Preprocess


class Sam(nn.Module):
    """Any image encoder with SAM's prompt encoder and mask decoder."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, image_encoder: nn.Module, preprocess: Preprocess, dim: int = 256) -> None:
        super().__init__()
        self.rule = preprocess
        self.embedding_size = divided(preprocess.prompt_size, 16)
        self.image_encoder = image_encoder
        self.prompt_encoder = PromptEncoder(dim, self.embedding_size, preprocess.prompt_size)
        self.mask_decoder = MaskDecoder(dim)
        # Not persistent: the authors' checkpoints do not have them.
        for name, values in (
            ("pixel_mean", preprocess.pixel_mean),
            ("pixel_std", preprocess.pixel_std),
        ):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def preprocess(self, image: Tensor) -> Tensor:
        """Normalise a resized image 1x3xhxw (RGB, 0-255), then pad with zeros to the input's size.

        Source: `Sam.preprocess`, which pads to a square; here to any rectangle.
        """
        x = (image - self.pixel_mean) / self.pixel_std
        h, w = x.shape[-2:]
        height, width = sides(self.rule.image_size)
        return nn.functional.pad(x, (0, width - w, 0, height - h))

    def encode(self, image: Tensor) -> Tensor:
        """Return the embedding 1x256x64x64 of a resized image 1x3xHxW (RGB, 0-255, unpadded)."""
        out: Tensor = self.image_encoder(self.preprocess(image))
        return out

    def decode(
        self,
        image_embeddings: Tensor,
        points: tuple[Tensor, Tensor] | None,
        boxes: Tensor | None,
        masks: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return logits Bx4x256x256 and predicted IoUs Bx4; prompts are as in `PromptEncoder`."""
        sparse, dense = self.prompt_encoder(points, boxes, masks)
        out: tuple[Tensor, Tensor] = self.mask_decoder(
            image_embeddings, self.prompt_encoder.dense_pe(), sparse, dense
        )
        return out
