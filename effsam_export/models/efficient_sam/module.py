"""EfficientSAM as in the authors' code: image encoder, prompt encoder, mask decoder.

Source: yformer/EfficientSAM (commit d525f62), `efficient_sam/efficient_sam.py`. This is the
reference of every parity check, so nothing here is changed for export.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effsam_export.models.efficient_sam.decoder import MaskDecoder
from effsam_export.models.efficient_sam.encoder import OUT_DIM, PATCH, ImageEncoderViT
from effsam_export.models.efficient_sam.prompt_encoder import PromptEncoder, six_slots

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
"""On the scale 0 to 1, as in the authors' code."""


class EfficientSam(nn.Module):
    """EfficientSAM of one size.

    Args:
        dim: Width of the encoder's tokens.
        num_heads: Number of heads of its blocks.
        image_size: Side of the encoder's image in pixels, which prompts are in, too. The shapes
            below are those for 1024 pixels.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, dim: int, num_heads: int, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.image_encoder = ImageEncoderViT(dim, num_heads, image_size)
        self.prompt_encoder = PromptEncoder(OUT_DIM, image_size // PATCH, image_size)
        self.mask_decoder = MaskDecoder(OUT_DIM)
        # Not persistent: the authors' checkpoints do not have them.
        for name, values in (("pixel_mean", PIXEL_MEAN), ("pixel_std", PIXEL_STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def preprocess(self, image: Tensor) -> Tensor:
        """Resize an image 1x3xHxW (RGB, 0-1) to 1x3x1024x1024, then normalise."""
        square = (self.image_size, self.image_size)
        if image.shape[-2:] != square:
            image = nn.functional.interpolate(image, square, mode="bilinear")
        return (image - self.pixel_mean) / self.pixel_std

    def encode(self, image: Tensor) -> Tensor:
        """Return the embedding 1x256x64x64 of an image 1x3xHxW of any size (RGB, 0-1)."""
        out: Tensor = self.image_encoder(self.preprocess(image))
        return out

    def decode(
        self, image_embeddings: Tensor, coords: Tensor, labels: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return all masks of prompts, first the one that the authors do not return.

        Args:
            image_embeddings: 1x256x64x64 of one image.
            coords: BxNx2 float32 (x, y) in pixels of an image of `size`; a negative coordinate
                means that there is no point.
            labels: BxN; 1 foreground, 2 box top-left, 3 box bottom-right, -1 no point.
            size: (height, width) of the frame that `coords` are in.

        Returns:
            Logits Bx4x256x256 and IoU predictions Bx4. The authors return the last three,
            unsorted.
        """
        h, w = size
        scaled = coords * self.image_size / torch.tensor([w, h])
        coords = torch.where(coords >= 0, scaled, -1.0)
        sparse = self.prompt_encoder(*six_slots(coords, labels))
        out: tuple[Tensor, Tensor] = self.mask_decoder(
            image_embeddings, self.prompt_encoder.dense_pe(), sparse
        )
        return out
