"""EfficientSAM for export: modules that share the trained weights and trace to plain operators.

The original modules remain the reference of the parity checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from effsam_export.models.efficient_sam.encoder import ExportImageEncoder
from effsam_export.models.sam.export import DensePositions
from effsam_export.models.sam.scale_folding import fold_neck_scale

if TYPE_CHECKING:
    from effsam_export.models.efficient_sam.module import EfficientSam

SCALE = 255.0


class ExportEncoder(nn.Module):
    """`image` 1x3x1024x1024 (RGB, 0-255, squashed to a square) to embeddings 1x256x64x64."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, sam: EfficientSam) -> None:
        super().__init__()
        for name, value in (("pixel_mean", sam.pixel_mean), ("pixel_std", sam.pixel_std)):
            self.register_buffer(name, value * SCALE, persistent=False)
        self.image_encoder = fold_neck_scale(ExportImageEncoder(sam.image_encoder).eval())

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.image_encoder((image - self.pixel_mean) / self.pixel_std)
        return out


class StagedGroupNorm(nn.Module):
    """GroupNorm with one group, computed from means that do not overflow FP16.

    Given: mean and variance of 64x128x128 values at once, whose sum can exceed 65504
    Result: the mean of means, over columns, rows and channels
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        assert norm.num_groups == 1
        self.weight = norm.weight
        self.bias = norm.bias
        self.eps = norm.eps

    @staticmethod
    def _mean(x: Tensor) -> Tensor:
        return x.mean(3, keepdim=True).mean(2, keepdim=True).mean(1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        centred = x - self._mean(x)
        x = centred / torch.sqrt(self._mean(centred * centred) + self.eps)
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class ExportDecoder(nn.Module):
    """Prompt encoder and mask decoder as one graph of plain arithmetic, for three masks.

    Differences from the reference:
        Labels select embeddings by multiplication with a float.
        The image is broadcast over prompts, not repeated.
        The positional encoding of the grid is two constant tables.
        The mask that the authors do not return is not computed.
    """

    def __init__(self, sam: EfficientSam) -> None:
        super().__init__()
        self.prompt_encoder = sam.prompt_encoder
        self.mask_decoder = sam.mask_decoder
        encoder = sam.prompt_encoder
        self.dense_pe = DensePositions(encoder.pe_layer, encoder.embedding_size)
        first, second = list(sam.mask_decoder.final_output_upscaling_layers)
        assert isinstance(first, nn.Sequential)
        conv, norm, act = list(first)
        assert isinstance(norm, nn.GroupNorm)
        self.upscaling = nn.Sequential(conv, StagedGroupNorm(norm), act, second)

    def embed_points(self, coords: Tensor, labels: Tensor) -> Tensor:
        """Return the sparse embedding Bx6xC of coordinates Bx6x2 and labels Bx6."""
        encoder = self.prompt_encoder
        # Negative coordinates mean that there is no point, as in the authors' code.
        off = (coords < 0).to(coords.dtype)
        coords = coords * (1.0 - off) - off
        embedding = encoder.pe_layer.encode((coords + 0.5) / encoder.image_size)
        labels = labels.unsqueeze(-1)
        for label, learned in encoder.label_embeddings().items():
            embedding = embedding + learned * (labels == label).to(embedding.dtype)
        return embedding

    def forward(
        self, image_embeddings: Tensor, point_coords: Tensor, point_labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        decoder = self.mask_decoder
        sparse = self.embed_points(point_coords, point_labels)
        b = sparse.shape[0]
        h, w = image_embeddings.shape[-2:]
        tokens = torch.cat([decoder.output_tokens(b), sparse], dim=1)
        hs, src = decoder.transformer(image_embeddings, self.dense_pe(), tokens)
        upscaled = self.upscaling(src.transpose(1, 2).reshape(b, -1, h, w))
        heads = list(decoder.output_hypernetworks_mlps)[1:]
        hyper = torch.stack([mlp(hs[:, 2 + i]) for i, mlp in enumerate(heads)], dim=1)
        masks = (hyper @ upscaled.flatten(2)).reshape(b, len(heads), 4 * h, 4 * w)
        # Sliced while it has three dimensions: LiteRT's GPU delegate cannot slice a matrix.
        scores = decoder.iou_prediction_head(hs[:, :1])[:, :, 1:]
        return masks, scores.flatten(1)
