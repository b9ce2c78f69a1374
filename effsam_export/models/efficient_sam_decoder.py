"""EfficientSAM's prompt encoder, mask decoder and wiring, with the authors' parameter names.

Source: yformer/EfficientSAM (commit d525f62), `efficient_sam/{efficient_sam,efficient_sam_decoder,
two_way_transformer,mlp}.py`. Against SAM's: six point slots, no label for the background, padding
points that keep their positional encoding, no mask prompt, GELU, GroupNorm in the upscaler, and a
residual in the first block too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from effsam_export.models.sam.export import DensePositions
from effsam_export.models.sam.prompt_encoder import PositionEmbeddingRandom
from effsam_export.models.sam.transformer import Attention

if TYPE_CHECKING:
    from effsam_export.spec import Preprocess

SLOTS = 6
NUM_MASKS = 4
"""Mask tokens; the authors' forward pass returns the last three."""


class MLPBlock(nn.Module):
    """Linear layers with GELU behind each, and a last one without."""

    def __init__(self, in_dim: int, hidden: int, out_dim: int, depth: int) -> None:
        super().__init__()
        widths = [in_dim, *[hidden] * (depth - 1)]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.GELU()) for width in widths
        )
        self.fc = nn.Linear(hidden, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.fc(x)
        return out


class TwoWayAttentionBlock(nn.Module):
    """As SAM's, but the first block has the residual of its self-attention too."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, *, first: bool) -> None:
        super().__init__()
        self.self_attn = Attention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, num_heads, downsample_rate=2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLPBlock(dim, mlp_dim, dim, 1)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, num_heads, downsample_rate=2)
        self.first = first

    def forward(
        self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor
    ) -> tuple[Tensor, Tensor]:
        if not self.first:
            queries = queries + query_pe
        queries = self.norm1(queries + self.self_attn(queries, queries, queries))
        crossed = self.cross_attn_token_to_image(queries + query_pe, keys + key_pe, keys)
        queries = self.norm2(queries + crossed)
        queries = self.norm3(queries + self.mlp(queries))
        back = self.cross_attn_image_to_token(keys + key_pe, queries + query_pe, queries)
        return queries, self.norm4(keys + back)


class TwoWayTransformer(nn.Module):
    """Two blocks and a last attention from the tokens to the image; shapes as SAM's."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayAttentionBlock(dim, num_heads=8, mlp_dim=2048, first=i == 0) for i in range(2)
        )
        self.final_attn_token_to_image = Attention(dim, 8, downsample_rate=2)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, image: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        keys = image.flatten(2).transpose(1, 2)  # B x HW x C
        key_pe = image_pe.flatten(2).transpose(1, 2)
        queries = tokens
        for layer in self.layers:
            queries, keys = layer(queries, keys, tokens, key_pe)
        queries = queries + self.final_attn_token_to_image(queries + tokens, keys + key_pe, keys)
        return self.norm_final_attn(queries), keys


class PromptEncoder(nn.Module):
    """Points BxNx2 in the 1024-pixel frame and labels BxN (1, 2, 3, -1) to BxNxC."""

    def __init__(self, dim: int, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.pe_layer = PositionEmbeddingRandom(dim // 2)
        self.invalid_points = nn.Embedding(1, dim)
        self.point_embeddings = nn.Embedding(1, dim)
        self.bbox_top_left_embeddings = nn.Embedding(1, dim)
        self.bbox_bottom_right_embeddings = nn.Embedding(1, dim)

    def forward(self, points: Tensor, labels: Tensor) -> Tensor:
        embedding = self.pe_layer.encode((points + 0.5) / self.image_size)
        for label, learned in (
            (-1, self.invalid_points),
            (1, self.point_embeddings),
            (2, self.bbox_top_left_embeddings),
            (3, self.bbox_bottom_right_embeddings),
        ):
            chosen = (labels == label).to(embedding.dtype).unsqueeze(-1)
            embedding = embedding + learned.weight * chosen
        return embedding


class MaskDecoder(nn.Module):
    """Image embedding and point embeddings to logits of four masks and their predicted IoUs."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(dim)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(NUM_MASKS, dim)
        self.final_output_upscaling_layers = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(dim, dim // 4, kernel_size=2, stride=2),
                    nn.GroupNorm(1, dim // 4),
                    nn.GELU(),
                ),
                nn.Sequential(
                    nn.ConvTranspose2d(dim // 4, dim // 8, kernel_size=2, stride=2),
                    nn.Identity(),
                    nn.GELU(),
                ),
            ]
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLPBlock(dim, dim, dim // 8, 2) for _ in range(NUM_MASKS)
        )
        self.iou_prediction_head = MLPBlock(dim, 256, NUM_MASKS, 2)

    def forward(self, image: Tensor, image_pe: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
        """Predict all masks.

        Args:
            image: Image embedding BxCxHxW, or 1xCxHxW to be broadcast over prompts.
            image_pe: Positional encoding of the grid, 1xCxHxW.
            sparse: Embedded points BxNxC.

        Returns:
            Logits Bx4x4Hx4W and IoU predictions Bx4.
        """
        b = sparse.shape[0]
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.unsqueeze(0).expand(b, -1, -1), sparse], dim=1)
        hs, src = self.transformer(image.expand(b, -1, -1, -1), image_pe, tokens)
        h, w = image.shape[-2:]
        upscaled = src.transpose(1, 2).reshape(b, -1, h, w)
        for layer in self.final_output_upscaling_layers:
            upscaled = layer(upscaled)
        chosen = hs[:, 1 : 1 + NUM_MASKS]
        hyper = torch.stack(
            [mlp(chosen[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )
        masks = (hyper @ upscaled.flatten(2)).reshape(b, NUM_MASKS, 4 * h, 4 * w)
        return masks, self.iou_prediction_head(hs[:, 0])


class EfficientSam(nn.Module):
    """Encoder, prompt encoder and mask decoder as the authors wire them: the reference."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, image_encoder: nn.Module, preprocess: Preprocess, dim: int = 256) -> None:
        super().__init__()
        self.rule = preprocess
        self.embedding_size = preprocess.prompt_size // 16
        self.image_encoder = image_encoder
        self.prompt_encoder = PromptEncoder(dim, preprocess.prompt_size)
        self.mask_decoder = MaskDecoder(dim)
        for name, values in (
            ("pixel_mean", preprocess.pixel_mean),
            ("pixel_std", preprocess.pixel_std),
        ):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def preprocess(self, image: Tensor) -> Tensor:
        """A photograph 1x3xHxW (RGB, 0-255) squashed to the square, without antialiasing."""
        # The authors' own scale is 0 to 1; the mean and deviation are theirs times 255.
        square = (self.rule.image_size, self.rule.image_size)
        x = nn.functional.interpolate(image, square, mode="bilinear")
        return (x - self.pixel_mean) / self.pixel_std

    def encode(self, image: Tensor) -> Tensor:
        """A photograph 1x3xHxW float32 (RGB, 0-255) to its embedding 1x256x64x64."""
        out: Tensor = self.image_encoder(self.preprocess(image))
        return out

    def decode(
        self, image_embeddings: Tensor, points: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """All four masks for points BxNx2 in the 1024-pixel frame: logits and IoUs.

        Fewer than six points are filled up with (-1, -1) of label -1; of more, the first six are
        taken, as the authors do. (`check_prompt` refuses them before they come here.)
        """
        missing = SLOTS - points.shape[1]
        points = nn.functional.pad(points, (0, 0, 0, missing), value=-1.0)
        labels = nn.functional.pad(labels, (0, missing), value=-1.0)
        sparse = self.prompt_encoder(points, labels)
        dense_pe = self.prompt_encoder.pe_layer.grid(self.embedding_size).unsqueeze(0)
        out: tuple[Tensor, Tensor] = self.mask_decoder(image_embeddings, dense_pe, sparse)
        return out


class ExportDecoder(nn.Module):
    """Prompt encoder and mask decoder as one graph; the grid's encoding is a constant."""

    def __init__(self, sam: EfficientSam) -> None:
        super().__init__()
        self.prompt_encoder = sam.prompt_encoder
        self.mask_decoder = sam.mask_decoder
        self.dense_pe = DensePositions(sam.prompt_encoder.pe_layer, sam.embedding_size)

    def forward(
        self, image_embeddings: Tensor, point_coords: Tensor, point_labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        sparse = self.prompt_encoder(point_coords, point_labels)
        masks, iou = self.mask_decoder(image_embeddings, self.dense_pe(), sparse)
        return masks[:, 1:], iou[:, 1:]
