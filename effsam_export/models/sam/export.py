"""SAM for export: modules that share the trained weights and trace to plain operators.

The original modules remain the reference of the parity checks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from effsam_export.models.folding import fold_batch_norms
from effsam_export.models.sam.scale_folding import fold_mask_gain, fold_neck_scale
from effsam_export.models.sam.token_upscaling import TokenMaskDecoder
from effsam_export.models.sam.two_way_export import MaskTerm
from effsam_export.spec.sizes import sides

if TYPE_CHECKING:
    from effsam_export.models.sam.mask_decoder import MaskDecoder
    from effsam_export.models.sam.module import Sam
    from effsam_export.models.sam.prompt_encoder import PositionEmbeddingRandom
    from effsam_export.spec.sizes import Size

ExportForm = Callable[[nn.Module], nn.Module]
"""Encoder -> a module with the same inputs and outputs, within FP32 rounding. It may share weights
with the encoder, which it leaves unchanged."""


class ExportEncoder(nn.Module):
    """`image` 1x3xHxW (RGB, 0-255, padded with the pixel mean) to `image_embeddings`.

    Args:
        sam: The loaded model.
        export_form: Makes the image encoder ready for export.
    """

    def __init__(self, sam: Sam, export_form: ExportForm = fold_batch_norms) -> None:
        super().__init__()
        self.pixel_mean = sam.pixel_mean
        self.pixel_std = sam.pixel_std
        self.image_encoder = fold_neck_scale(export_form(sam.image_encoder).eval())

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.image_encoder((image - self.pixel_mean) / self.pixel_std)
        return out


class DensePositions(nn.Module):
    """Positional encoding of the embedding grid, 1xCxHxW, as constants.

    One table for rows and one for columns: sin(a + b) and cos(a + b) follow from the addition
    theorems. The file holds 128 KB instead of 4.2 MB. FP16 cannot
    represent the angles precisely, but it can their sines and cosines.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, pe_layer: PositionEmbeddingRandom, size: Size) -> None:
        super().__init__()
        matrix = pe_layer.positional_encoding_gaussian_matrix.detach().double()
        height, width = sides(size)
        for name, frequencies, count in (
            ("rows", matrix[1], height),
            ("columns", matrix[0], width),
        ):
            centres = 2 * (torch.arange(count, dtype=torch.float64) + 0.5) / count - 1
            angles = 2 * torch.pi * frequencies[:, None] * centres  # C/2 x count
            table = torch.stack([torch.sin(angles), torch.cos(angles)]).float()
            self.register_buffer(name, table, persistent=False)

    def forward(self) -> Tensor:
        sin_y, cos_y = self.rows[0, :, :, None], self.rows[1, :, :, None]  # C/2 x H x 1
        sin_x, cos_x = self.columns[0, :, None], self.columns[1, :, None]  # C/2 x 1 x W
        sin = sin_x * cos_y + cos_x * sin_y
        cos = cos_x * cos_y - sin_x * sin_y
        return torch.cat([sin, cos]).unsqueeze(0)


class ExportDecoder(nn.Module):
    """Prompt encoder and mask decoder as one graph of plain arithmetic.

    Differences from the reference:
        Labels select embeddings by comparison, not by indexing.
        The image is broadcast over prompts, not repeated: `repeat_interleave` becomes OneHot and
            Tile, which TensorRT and Core ML reject. Its first products are shared by all prompts.
        The positional encoding of the grid is constant.
        Masks are upscaled as linear layers on tokens.
        There is no `orig_im_size`.
    """

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.prompt_encoder = fold_mask_gain(sam.prompt_encoder)
        self.mask_decoder: MaskDecoder = TokenMaskDecoder(sam.mask_decoder)
        self.dense_pe = DensePositions(sam.prompt_encoder.pe_layer, sam.embedding_size)

    def embed_points(self, coords: Tensor, labels: Tensor) -> Tensor:
        """Return the sparse embedding BxNxC of coordinates BxNx2 and labels BxN."""
        encoder = self.prompt_encoder
        embedding = encoder.encode(coords + 0.5)
        labels = labels.unsqueeze(-1)
        padding = (labels == -1).to(embedding.dtype)
        embedding = embedding * (1.0 - padding) + encoder.not_a_point_embed.weight * padding
        for i in range(len(encoder.point_embeddings)):
            chosen = (labels == i).to(embedding.dtype)
            embedding = embedding + encoder.label_embedding(i) * chosen
        return embedding

    def embed_masks(self, mask_input: Tensor, has_mask_input: Tensor) -> Tensor:
        """Return the dense embedding BxCxHxW of masks Bx1x4Hx4W and their flags B."""
        encoder = self.prompt_encoder
        has = has_mask_input.reshape(-1, 1, 1, 1)
        embedding: Tensor = has * encoder.mask_downscaling(mask_input) + (1.0 - has) * self.no_mask
        return embedding

    @property
    def no_mask(self) -> Tensor:
        """The dense embedding of a prompt without a mask, 1xCx1x1."""
        return self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)

    def mask_term(self, mask_input: Tensor, has_mask_input: Tensor) -> MaskTerm:
        """Return the dense embedding less `no_mask`, of masks and flags as in `embed_masks`.

        The last layer is a 1x1 convolution: it is linear in its 16 channels and a one for its bias.
        """
        encoder = self.prompt_encoder
        has = has_mask_input.reshape(-1, 1, 1, 1)
        *layers, last = encoder.mask_downscaling
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        x = mask_input
        for layer in layers:
            x = layer(x)
        features = torch.cat([has * x, has.expand(-1, -1, *x.shape[2:])], dim=1)
        bias = last.bias - encoder.no_mask_embed.weight  # 1 x C
        return MaskTerm(
            features=features.flatten(2).transpose(1, 2),
            weights=torch.cat([last.weight.flatten(1).transpose(0, 1), bias]),
        )

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
    ) -> tuple[Tensor, Tensor]:
        sparse = self.embed_points(point_coords, point_labels)
        decoder = self.mask_decoder
        tokens = torch.cat([decoder.output_tokens(sparse.shape[0]), sparse], dim=1)
        hs, src = self.attend(image_embeddings, mask_input, has_mask_input, tokens, point_labels)
        h, w = image_embeddings.shape[-2:]
        return decoder.heads(hs, src, (h, w))

    def attend(
        self,
        image_embeddings: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        tokens: Tensor,
        labels: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Run the two-way transformer; returns tokens BxNxC and the image as BxHWxC."""
        del labels
        masks = self.mask_term(mask_input, has_mask_input)
        image = image_embeddings + self.no_mask
        out: tuple[Tensor, Tensor] = self.mask_decoder.transformer(
            image, self.dense_pe(), tokens, masks=masks
        )
        return out


class WithStability(nn.Module):
    """A decoder with one more output: the stability of each mask against the threshold.

    Stability is the IoU of the mask at logits > `offset` with the mask at logits > -`offset`. It is
    computed from means, not sums: a sum of 65536 pixels overflows FP16.
    """

    def __init__(self, decoder: ExportDecoder, offset: float) -> None:
        super().__init__()
        self.decoder = decoder
        self.offset = offset

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        masks, iou = self.decoder(
            image_embeddings, point_coords, point_labels, mask_input, has_mask_input
        )
        inside = (masks > self.offset).to(masks.dtype).mean((2, 3))
        around = (masks > -self.offset).to(masks.dtype).mean((2, 3))
        # An empty mask gets 0, where the authors divide zero by zero.
        return masks, iou, inside / (around + (around == 0).to(around.dtype))
