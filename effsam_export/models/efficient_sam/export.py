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
from effsam_export.models.sam.token_upscaling import TokenUpscaling, to_planes

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
    """GroupNorm with one group, for tokens of several pixels, from means that stay in FP16's range.

    Takes BxNxkC, and returns the k pixels of each token as BxkNxC.

    Given: mean and variance of 128x128 tokens of 64 values at once, whose sum can exceed 65504
    Result: the mean of means, over channels, columns and rows

    Args:
        norm: The norm of feature maps, whose weights are shared.
        columns: Number of pixels of a row; kN is a multiple of it.
    """

    def __init__(self, norm: nn.GroupNorm, columns: int) -> None:
        super().__init__()
        assert norm.num_groups == 1
        self.weight = norm.weight
        self.bias = norm.bias
        self.eps = norm.eps
        self.columns = columns

    def _mean(self, x: Tensor) -> Tensor:
        rows = x.mean(2).reshape(-1, x.shape[1] // self.columns, self.columns)
        return rows.mean(2, keepdim=True).mean(1, keepdim=True)  # B x 1 x 1

    def forward(self, x: Tensor) -> Tensor:
        channels = self.weight.shape[0]
        x = x.reshape(-1, x.shape[1] * (x.shape[2] // channels), channels)
        centred = x - self._mean(x)
        x = centred / torch.sqrt(self._mean(centred * centred) + self.eps)
        return x * self.weight + self.bias


class ExportDecoder(nn.Module):
    """Prompt encoder and mask decoder as one graph of plain arithmetic, for three masks.

    Differences from the reference:
        Labels select embeddings by multiplication with a float.
        The image is broadcast over prompts, not repeated.
        The positional encoding of the grid is two constant tables.
        Masks are upscaled as linear layers on tokens.
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
        assert isinstance(second, nn.Sequential)
        conv, norm, act = first
        assert isinstance(norm, nn.GroupNorm)
        staged = StagedGroupNorm(norm, 2 * encoder.embedding_size)
        self.upscaling = TokenUpscaling(conv, staged, act, second[0], second[2])

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
        h, w = image_embeddings.shape[-2:]
        tokens = torch.cat([decoder.output_tokens(sparse.shape[0]), sparse], dim=1)
        hs, src = decoder.transformer(image_embeddings, self.dense_pe(), tokens)
        upscaled = self.upscaling(src)  # B x 16HW x C/8
        heads = list(decoder.output_hypernetworks_mlps)[1:]
        hyper = torch.stack([mlp(hs[:, 2 + i]) for i, mlp in enumerate(heads)], dim=1)
        masks = to_planes(hyper @ upscaled.transpose(1, 2), (h, w))
        # Sliced while it has three dimensions: LiteRT's GPU delegate cannot slice a matrix.
        scores = decoder.iou_prediction_head(hs[:, :1])[:, :, 1:]
        return masks, scores.flatten(1)
