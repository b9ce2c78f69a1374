"""A Segment-Anything model as its authors wire it: encoder, prompt encoder, mask decoder.

Source: facebookresearch/segment-anything, `segment_anything/modeling/sam.py`. This is the
reference that every exported graph is judged against: nothing here is changed for export.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from effsam_export.models.sam.mask_decoder import MaskDecoder
from effsam_export.models.sam.prompt_encoder import PromptEncoder

if TYPE_CHECKING:
    from effsam_export.spec.prompts import Preprocess


class Sam(nn.Module):
    """An image encoder of any kind in front of SAM's prompt encoder and mask decoder."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, image_encoder: nn.Module, preprocess: Preprocess, dim: int = 256) -> None:
        super().__init__()
        self.rule = preprocess
        self.embedding_size = preprocess.prompt_size // 16
        self.image_encoder = image_encoder
        self.prompt_encoder = PromptEncoder(dim, self.embedding_size, preprocess.prompt_size)
        self.mask_decoder = MaskDecoder(dim)
        # Not persistent: the checkpoints of the authors do not hold them.
        for name, values in (
            ("pixel_mean", preprocess.pixel_mean),
            ("pixel_std", preprocess.pixel_std),
        ):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def preprocess(self, image: Tensor) -> Tensor:
        """Normalise a resized image 1x3xHxW (RGB, 0-255), then pad with zeros to the square."""
        x = (image - self.pixel_mean) / self.pixel_std
        h, w = x.shape[-2:]
        size = self.rule.image_size
        return nn.functional.pad(x, (0, size - w, 0, size - h))

    def encode(self, image: Tensor) -> Tensor:
        """Resized image 1x3xHxW float32 (RGB, 0-255, unpadded) to its embedding 1x256x64x64."""
        out: Tensor = self.image_encoder(self.preprocess(image))
        return out

    def decode(
        self,
        image_embeddings: Tensor,
        points: tuple[Tensor, Tensor] | None,
        boxes: Tensor | None,
        masks: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """All masks for prompts (shaped as for `PromptEncoder`): logits Bx4x256x256, IoUs Bx4."""
        sparse, dense = self.prompt_encoder(points, boxes, masks)
        out: tuple[Tensor, Tensor] = self.mask_decoder(
            image_embeddings, self.prompt_encoder.dense_pe(), sparse, dense
        )
        return out
