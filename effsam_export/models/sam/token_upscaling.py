"""The end of SAM's mask decoder for export: upscaling as linear layers on the image tokens.

A transposed convolution with kernel 2 and stride 2 writes a block of 2x2 pixels for each input
pixel, and blocks do not overlap. So it is a linear layer with four times the channels, whose
outputs are the four pixels of the block. Only the masks are put into the order of pixels, not the
feature maps, which have 8 to 16 times as many values.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effsam_export.models.sam.layers import LayerNorm2d
from effsam_export.models.sam.mask_decoder import MaskDecoder
from effsam_export.models.sam.two_way_export import ExportTransformer, share

BLOCK = 4
"""Pixels of a block of 2x2."""


def as_linear(conv: nn.ConvTranspose2d, *, by_columns: bool) -> nn.Linear:
    """Return a transposed convolution of kernel and stride 2 as a linear layer.

    Its outputs are the channels of one pixel of the block after the other: column by column, or row
    by row.
    """
    assert conv.kernel_size == conv.stride == (2, 2)
    assert conv.padding == conv.output_padding == (0, 0)
    assert conv.dilation == (1, 1)
    assert conv.groups == 1
    assert conv.bias is not None
    given, channels = conv.in_channels, conv.out_channels
    order = (3, 2, 1, 0) if by_columns else (2, 3, 1, 0)  # of weights: input, output, row, column
    weight = conv.weight.detach().permute(order).reshape(BLOCK * channels, given)
    linear = nn.Linear(given, BLOCK * channels, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.bias = nn.Parameter(conv.bias.detach().repeat(BLOCK), requires_grad=False)
    return linear


class TokenNorm2d(nn.Module):
    """`LayerNorm2d` for tokens BxNxkC with k pixels each, to BxkNxC; it shares the weights.

    Values are centred first, as in LayerNorm2d: converters expand torch's own `layer_norm` to a
    scale and a shift of values that are not, which is less precise in FP16.

    The reshaping is part of the norm, so that no cast of mixed precision comes right before the
    centring: ONNX Runtime 1.32 fuses a cast into the norm, and then refuses its two types.
    """

    def __init__(self, norm: LayerNorm2d) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.eps = norm.eps

    def forward(self, x: Tensor) -> Tensor:
        channels = self.weight.shape[0]
        x = x.reshape(-1, x.shape[1] * (x.shape[2] // channels), channels)
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.pow(2).mean(-1, keepdim=True)
        return centred / torch.sqrt(variance + self.eps) * self.weight + self.bias


class TokenUpscaling(nn.Sequential):
    """Two doublings of the resolution, with a norm between them, for tokens.

    Takes BxNxC, one token for each cell of the grid, by rows. Returns Bx16NxC/8: the 16 pixels of
    each cell follow each other, ordered by the column of the first doubling, its row, the row of
    the second, and its column. `to_planes` expects this order.

    Layers have the names that they have in the authors' module.

    Args:
        first: The first transposed convolution.
        norm: The norm of its outputs: takes BxNx4C, and returns Bx4NxC.
        act: The activation after the norm.
        second: The second transposed convolution.
        last: The activation after it.
    """

    def __init__(
        self, first: nn.Module, norm: nn.Module, act: nn.Module, second: nn.Module, last: nn.Module
    ) -> None:
        assert isinstance(first, nn.ConvTranspose2d)
        assert isinstance(second, nn.ConvTranspose2d)
        super().__init__(
            as_linear(first, by_columns=True), norm, act, as_linear(second, by_columns=False), last
        )

    def forward(self, tokens: Tensor) -> Tensor:
        first, norm, act, second, last = self
        cells = tokens.shape[1]
        x = second(act(norm(first(tokens))))
        out: Tensor = last(x.reshape(-1, BLOCK**2 * cells, x.shape[2] // BLOCK))
        return out


def to_planes(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return masks BxKx16HW, in the order of `TokenUpscaling`, as BxKx4Hx4W.

    One transposition of four dimensions: Core ML has five at most, and LiteRT's GPU delegate four.
    """
    h, w = grid
    rows = masks.reshape(-1, 2 * w, BLOCK, 2).transpose(1, 2)
    return rows.reshape(-1, masks.shape[1], 4 * h, 4 * w)


class TokenMaskDecoder(MaskDecoder):
    """SAM's mask decoder for export; it shares the weights with the given one, left unchanged."""

    def __init__(self, decoder: MaskDecoder) -> None:
        share(self, decoder)
        self.num_mask_tokens = decoder.num_mask_tokens
        self.transformer = ExportTransformer(decoder.transformer)
        first, norm, act, second, last = decoder.output_upscaling
        assert isinstance(norm, LayerNorm2d)
        self.output_upscaling = TokenUpscaling(first, TokenNorm2d(norm), act, second, last)

    def heads(self, hs: Tensor, src: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return logits Bx4x4Hx4W and IoUs Bx4 of transformer outputs BxNxC and BxHWxC."""
        tokens = hs[:, 1 : 1 + self.num_mask_tokens]
        hyper = torch.stack(
            [mlp(tokens[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )  # B x 4 x C/8
        upscaled = self.output_upscaling(src)  # B x 16HW x C/8
        masks = to_planes(hyper @ upscaled.transpose(1, 2), grid)
        return masks, self.iou_prediction_head(hs[:, 0])
