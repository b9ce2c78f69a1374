"""SAM's prompt encoder: points, boxes and masks to embeddings, with the authors' parameter names.

Source: facebookresearch/segment-anything, `segment_anything/modeling/prompt_encoder.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from effsam_export.models.sam.layers import LayerNorm2d
from effsam_export.spec.sizes import Size, sides

MASK_CHANNELS = 16
"""Hidden width of the mask down-scaling; `mask_in_chans` in the authors' builders."""


class PositionEmbeddingRandom(nn.Module):
    """Positional encoding by random spatial frequencies, which the checkpoint stores."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, num_pos_feats: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.zeros(2, num_pos_feats))

    def encode(self, coords: Tensor) -> Tensor:
        """Encode coordinates (x, y) in [0, 1], shape ...x2, as ...xC."""
        angles = 2 * math.pi * ((2 * coords - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)

    def grid(self, size: Size) -> Tensor:
        """Return the encoding of the cell centres of a grid, CxHxW."""
        height, width = sides(size)
        cells = torch.ones((height, width), device=self.positional_encoding_gaussian_matrix.device)
        y = (cells.cumsum(dim=0) - 0.5) / height
        x = (cells.cumsum(dim=1) - 0.5) / width
        return self.encode(torch.stack([x, y], dim=-1)).permute(2, 0, 1)


class PromptEncoder(nn.Module):
    """Prompts in model-frame pixels to sparse (BxNxC) and dense (BxCxHxW) embeddings."""

    def __init__(self, dim: int, embedding_size: Size, image_size: Size) -> None:
        super().__init__()
        self.dim = dim
        self.embedding_size = embedding_size
        self.image_size = image_size
        if not isinstance(image_size, int):
            height, width = image_size
            # Divisors of x and y.
            self.register_buffer("frame", torch.tensor([width, height]).float(), persistent=False)
        self.pe_layer = PositionEmbeddingRandom(dim // 2)
        # Background point, foreground point, box top-left, box bottom-right.
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, MASK_CHANNELS // 4, kernel_size=2, stride=2),
            LayerNorm2d(MASK_CHANNELS // 4),
            nn.GELU(),
            nn.Conv2d(MASK_CHANNELS // 4, MASK_CHANNELS, kernel_size=2, stride=2),
            LayerNorm2d(MASK_CHANNELS),
            nn.GELU(),
            nn.Conv2d(MASK_CHANNELS, dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, dim)

    def label_embedding(self, label: int) -> Tensor:
        """Return the learned embedding (1xC) of a point label 0 to 3."""
        embedding = self.point_embeddings[label]
        assert isinstance(embedding, nn.Embedding)
        return embedding.weight

    def encode(self, points: Tensor) -> Tensor:
        """Encode points (x, y) in pixels of the frame, shape ...x2, as ...xC."""
        if isinstance(self.image_size, int):
            return self.pe_layer.encode(points / self.image_size)
        return self.pe_layer.encode(points / self.get_buffer("frame"))

    def dense_pe(self) -> Tensor:
        """Return the positional encoding of the embedding grid, 1xCxHxW."""
        return self.pe_layer.grid(self.embedding_size).unsqueeze(0)

    def embed_points(self, points: Tensor, labels: Tensor, *, pad: bool) -> Tensor:
        """Embed points BxNx2 with labels BxN; `pad` appends the authors' padding point."""
        points = points + 0.5  # to the centre of the pixel
        if pad:
            b = points.shape[0]
            points = torch.cat([points, points.new_zeros(b, 1, 2)], dim=1)
            labels = torch.cat([labels, -labels.new_ones(b, 1)], dim=1)
        embedding = self.encode(points)
        embedding[labels == -1] = 0.0
        embedding[labels == -1] += self.not_a_point_embed.weight
        # Label -2 is EdgeSAM's "no token"; other models do not use it.
        embedding[labels == -2] = 0.0
        embedding[labels == 0] += self.label_embedding(0)
        embedding[labels == 1] += self.label_embedding(1)
        return embedding

    def embed_boxes(self, boxes: Tensor) -> Tensor:
        """Embed boxes Bx4 (x0, y0, x1, y1) as two corner tokens each, Bx2xC."""
        corners = boxes.reshape(-1, 2, 2) + 0.5
        embedding = self.encode(corners)
        embedding[:, 0] += self.label_embedding(2)
        embedding[:, 1] += self.label_embedding(3)
        return embedding

    def forward(
        self,
        points: tuple[Tensor, Tensor] | None,
        boxes: Tensor | None,
        masks: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Embed prompts.

        Args:
            points: Coordinates BxNx2 float32 (x, y) in model-frame pixels, and labels BxN
                (1 foreground, 0 background, -1 not a point), or None.
            boxes: Bx4 float32 (x0, y0, x1, y1) in model-frame pixels, or None.
            masks: Logits Bx1x256x256, or None.

        Returns:
            Sparse embedding BxNxC and dense embedding BxCx64x64.
        """
        given = [t for t in (points[0] if points else None, boxes, masks) if t is not None]
        batch = given[0].shape[0] if given else 1
        sparse = self.no_mask_embed.weight.new_zeros(batch, 0, self.dim)
        if points is not None:
            sparse = torch.cat([sparse, self.embed_points(*points, pad=boxes is None)], dim=1)
        if boxes is not None:
            sparse = torch.cat([sparse, self.embed_boxes(boxes)], dim=1)
        if masks is not None:
            dense = self.mask_downscaling(masks)
        else:
            dense = self.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(
                batch, -1, *sides(self.embedding_size)
            )
        return sparse, dense
