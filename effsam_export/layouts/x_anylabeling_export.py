"""EdgeSAM and EfficientViT-SAM for export in X-AnyLabeling's own types.

The modules share the weights of our export forms. Their sub-modules have the paths of those forms,
by which recipes for FP16 and INT8 select layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from effsam_export.layouts.anylabeling_export import OneMaskDecoder
from effsam_export.layouts.decoders_export import inner_decoder, stability, with_padding
from effsam_export.layouts.sam_like import SIDE
from effsam_export.models.sam.export import ExportEncoder
from effsam_export.models.sam.slots import SlottedDecoder, closed_slots


class UnpaddedEncoder(nn.Module):
    """`image` uint8 1x3xHxW (RGB, at most 1024 pixels a side) to `image_embeddings`.

    Normalises, and pads with zeros to a square at the bottom and right.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        assert isinstance(encoder, ExportEncoder)
        self.pixel_mean = encoder.pixel_mean
        self.pixel_std = encoder.pixel_std
        self.image_encoder = encoder.image_encoder

    def forward(self, image: Tensor) -> Tensor:
        normalised = (image.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std
        # A fixed padding and a cut: the padding that a size leaves would depend on the size.
        out: Tensor = self.image_encoder(pad(normalised, (0, SIDE, 0, SIDE))[..., :SIDE, :SIDE])
        return out


class WholeImageEncoder(nn.Module):
    """`input_image` uint8 HxWx3 (RGB, any size) to `image_embeddings`.

    Args:
        encoder: Our export form.
        side: Pixels of a side of the encoder's input.
    """

    def __init__(self, encoder: nn.Module, side: int) -> None:
        super().__init__()
        assert isinstance(encoder, ExportEncoder)
        self.pixel_mean = encoder.pixel_mean
        self.pixel_std = encoder.pixel_std
        self.resize = ToSquare(side)
        self.image_encoder = encoder.image_encoder

    def forward(self, image: Tensor) -> Tensor:
        planes, inside = self.resize(image)
        out: Tensor = self.image_encoder((planes - self.pixel_mean) / self.pixel_std * inside)
        return out


class ToSquare(nn.Module):
    """Pixels uint8 HxWx3 to whole numbers 1x3xSxS, and where the image is: 1x1xSxS of 1 and 0.

    The longest side becomes S, with Pillow's bilinear filter: the columns first, rounded to whole
    numbers after each direction. Pillow 13 takes the rows of very narrow images first, which
    changes values by one at most. Each direction is a product with a matrix, because the shape of a
    matrix does not depend on the new size, which is computed in the graph.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        planes = image.permute(2, 0, 1).to(torch.float32)
        ones = torch.ones_like(planes[0])
        rows, columns = ones[:, 0], ones[0]
        longest = torch.maximum(rows.sum(), columns.sum())
        across, width = filters(columns, longest, self.side)
        down, height = filters(rows, longest, self.side)
        wide = torch.floor(planes @ across.transpose(0, 1) + 0.5)
        resized = torch.floor(down[None] @ wide + 0.5)
        return resized[None], (height[:, None] * width)[None, None]


def filters(ones: Tensor, longest: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return the weights of old pixels for new ones, and which new ones lie in the image.

    Args:
        ones: 1 for each old pixel, N.
        longest: The longest side of the image, which becomes `side`.
        side: Number of new pixels.

    Returns:
        `side` x N, a triangle around the middle of each new pixel that reaches at least one old
        pixel and at least one new one to both sides; and 1 or 0 for each new pixel.
        Source: Pillow, `Resample.c`, `precompute_coeffs` with the bilinear filter.
    """
    count = ones.sum()
    new = torch.clamp(torch.floor(count * side / longest + 0.5), min=1.0)
    scale = count / new
    old_at = torch.cumsum(ones, 0) - 0.5
    steps = torch.arange(side, dtype=ones.dtype)
    distance = (old_at[None] - ((steps + 0.5) * scale)[:, None]).abs()
    weights = torch.clamp(1 - distance / torch.clamp(scale, min=1.0), min=0.0)
    total = torch.clamp(weights.sum(1, keepdim=True), min=1e-6)
    return weights / total, (steps < new).to(ones.dtype)


class PointsDecoder(SlottedDecoder):
    """Points of one prompt to the stability of all four masks, and the masks.

    Adds the padding point to a prompt without a box.
    """

    def __init__(self, decoder: nn.Module) -> None:
        inner, offset = inner_decoder(decoder)
        super().__init__(inner)
        assert offset is not None, "the app ranks masks by their stability"
        self.offset = offset

    def forward(  # type: ignore[override]  # other inputs
        self, image_embeddings: Tensor, point_coords: Tensor, point_labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        points, labels = with_padding(point_coords, point_labels)
        sparse = self.embed_points(points, labels)
        decoder = self.mask_decoder
        tokens = torch.cat([decoder.output_tokens(sparse.shape[0]), sparse], dim=1)
        closed = closed_slots(tokens, labels)
        hs, src = decoder.transformer(
            image_embeddings + self.no_mask, self.dense_pe(), tokens, closed
        )
        height, width = image_embeddings.shape[-2:]
        masks, _ = decoder.heads(hs, src, (height, width))
        return stability(masks, self.offset), masks


class PaddingDecoder(OneMaskDecoder, SlottedDecoder):
    """One prompt to one mask in the size `orig_im_size`, with a padding point where it has no box.

    The mask is the best of the set for one point, and the first for more points or a box.
    """

    def forward(  # type: ignore[override]  # one more input and output, as its first base
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        points, labels = with_padding(point_coords, point_labels)
        return super().forward(
            image_embeddings, points, labels, mask_input, has_mask_input, orig_im_size
        )
