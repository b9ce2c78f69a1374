"""SAM for export in the layout of AnyLabeling: the modules share the weights of our export forms.

Their sub-modules have the paths of those forms, by which recipes for FP16 and INT8 select layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from effsam_export.layouts.decoders_export import inner_decoder, stability
from effsam_export.layouts.sam_like import SIDE
from effsam_export.models.sam.export import ExportDecoder, ExportEncoder

MARGIN = 1000.0
"""Greater than any difference of two scores."""


class PictureEncoder(nn.Module):
    """`input_image` HxWx3 (RGB, 0-255, at most 1024 pixels a side) to `image_embeddings`.

    Normalises, and pads with zeros to a square at the bottom and right.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        assert isinstance(encoder, ExportEncoder)
        self.pixel_mean = encoder.pixel_mean
        self.pixel_std = encoder.pixel_std
        self.image_encoder = encoder.image_encoder

    def forward(self, image: Tensor) -> Tensor:
        normalised = (image.permute(2, 0, 1)[None] - self.pixel_mean) / self.pixel_std
        height, width = normalised.shape[-2:]
        out: Tensor = self.image_encoder(pad(normalised, (0, SIDE - width, 0, SIDE - height)))
        return out


class OneMaskDecoder(ExportDecoder):
    """One prompt to one mask in the size `orig_im_size`.

    Source: segment-anything, `utils/onnx.py`, with `return_single_mask`; for EdgeSAM with
    `use_stability_score`.
    """

    def __init__(self, decoder: nn.Module) -> None:
        nn.Module.__init__(self)
        inner, self.offset = inner_decoder(decoder)
        for name, module in inner.named_children():
            self.add_module(name, module)
        self.upscale = ToOriginal()

    def forward(  # type: ignore[override]  # one more input and output
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        masks, scores = super().forward(
            image_embeddings, point_coords, point_labels, mask_input, has_mask_input
        )
        if self.offset is not None:
            scores = stability(masks, self.offset)
        best = selected(scores, point_labels)
        low_res = masks.index_select(1, best)
        return self.upscale(low_res, orig_im_size), scores.index_select(1, best), low_res


def selected(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the index (shape 1) of the mask to show, of scores 1xK for points with labels 1xN.

    Up to two points, padding included: the best but the first; more: the first. `select_masks`
    multiplies its margin by the number of points less 2.5, which overflows FP16 for many points.
    """
    points = torch.ones_like(labels).sum(1, keepdim=True)  # 1 x 1
    first = torch.zeros_like(scores)
    first[:, 0] = MARGIN
    return torch.argmax(scores + first * torch.clamp(points - 2.5, -0.5, 0.5), dim=1)


class ToOriginal(nn.Module):
    """Logits 1x1xHxW and `orig_im_size` to logits 1x1xheightxwidth.

    Bilinear to 1024 pixels, cut to the image without its padding, bilinear to its size. The second
    step gathers rows and columns, because its sizes are values of a tensor.
    """

    def forward(self, low_res: Tensor, orig_im_size: Tensor) -> Tensor:
        full = interpolate(low_res, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        inner = torch.floor(orig_im_size * (SIDE / orig_im_size.max()) + 0.5)
        rows = resized(full, 2, inner[0], orig_im_size[0])
        return resized(rows, 3, inner[1], orig_im_size[1])


def resized(planes: Tensor, axis: int, inner: Tensor, side: Tensor) -> Tensor:
    """Resize the first `inner` values of an axis to `side`, both whole numbers of shape ()."""
    # Not an `int` while it is traced.
    count: Any = side.to(torch.int64).item()
    torch._check(count >= 1)  # type: ignore[no-untyped-call]
    at = (torch.arange(count).to(planes.dtype) + 0.5) * (inner / side) - 0.5
    at = torch.clamp(at, min=0.0)
    low = torch.floor(at)
    part = (at - low).reshape([-1 if i == axis else 1 for i in range(4)])
    before = planes.index_select(axis, low.to(torch.int64))
    after = planes.index_select(axis, torch.minimum(low + 1, inner - 1).to(torch.int64))
    return before + (after - before) * part
