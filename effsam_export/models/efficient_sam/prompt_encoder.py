"""EfficientSAM's prompt encoder, for points only, with the authors' parameter names.

Source: yformer/EfficientSAM (commit d525f62), `efficient_sam/efficient_sam_decoder.py` and
`efficient_sam/efficient_sam.py`. Differences from SAM: label 0 has no embedding, a padded slot
keeps the encoding of its position (-1, -1), and box corners are points of labels 2 and 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effsam_export.models.sam.prompt_encoder import PositionEmbeddingRandom

MAX_POINTS = 6
"""Slots of a prompt; the authors drop further points (`decoder_max_num_input_points`)."""


def six_slots(coords: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return six points per prompt: further ones are dropped, padding is (-1, -1) of label -1.

    Args:
        coords: BxNx2 in prompt-frame pixels.
        labels: BxN.

    Returns:
        Bx6x2 and Bx6.
    """
    missing = MAX_POINTS - coords.shape[1]
    if missing <= 0:
        return coords[:, :MAX_POINTS], labels[:, :MAX_POINTS]
    coords = nn.functional.pad(coords, (0, 0, 0, missing), value=-1.0)
    return coords, nn.functional.pad(labels, (0, missing), value=-1.0)


class PromptEncoder(nn.Module):
    """Points in the frame of `image_size` pixels to the sparse embedding BxNxC."""

    def __init__(self, dim: int, embedding_size: int, image_size: int) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.image_size = image_size
        self.pe_layer = PositionEmbeddingRandom(dim // 2)
        self.invalid_points = nn.Embedding(1, dim)
        self.point_embeddings = nn.Embedding(1, dim)
        self.bbox_top_left_embeddings = nn.Embedding(1, dim)
        self.bbox_bottom_right_embeddings = nn.Embedding(1, dim)

    def label_embeddings(self) -> dict[int, Tensor]:
        """Return the learned embedding 1xC of each label; label 0 has none."""
        return {
            -1: self.invalid_points.weight,
            1: self.point_embeddings.weight,
            2: self.bbox_top_left_embeddings.weight,
            3: self.bbox_bottom_right_embeddings.weight,
        }

    def dense_pe(self) -> Tensor:
        """Return the positional encoding of the embedding grid, 1xCxHxW."""
        return self.pe_layer.grid(self.embedding_size).unsqueeze(0)

    def forward(self, coords: Tensor, labels: Tensor) -> Tensor:
        """Embed points.

        Args:
            coords: BxNx2 float32 (x, y); slots without a point are (-1, -1).
            labels: BxN; 1 foreground, 2 box top-left, 3 box bottom-right, -1 no point.

        Returns:
            Sparse embedding BxNxC.
        """
        embedding = self.pe_layer.encode((coords + 0.5) / self.image_size)  # centre of the pixel
        for label, learned in self.label_embeddings().items():
            embedding = embedding + learned * torch.eq(labels, label).unsqueeze(-1)
        return embedding
