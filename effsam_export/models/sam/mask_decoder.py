"""SAM's mask decoder, with the authors' parameter names.

Source: facebookresearch/segment-anything, `segment_anything/modeling/mask_decoder.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effsam_export.models.sam.layers import MLP, LayerNorm2d
from effsam_export.models.sam.transformer import TwoWayTransformer


class MaskDecoder(nn.Module):
    """Image embedding and prompt embeddings to mask logits and predicted IoUs.

    There are `num_multimask_outputs` + 1 masks. The first is for unambiguous prompts. The others
    are the multimask set (SAM: whole, part, sub-part).
    """

    def __init__(self, dim: int = 256, num_multimask_outputs: int = 3) -> None:
        super().__init__()
        self.num_mask_tokens = num_multimask_outputs + 1
        self.transformer = TwoWayTransformer(depth=2, dim=dim, num_heads=8, mlp_dim=2048)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(dim, dim, dim // 8, 3) for _ in range(self.num_mask_tokens)
        )
        self.iou_prediction_head = MLP(dim, 256, self.num_mask_tokens, 3)

    def output_tokens(self, batch: int) -> Tensor:
        """Return the IoU token and the mask tokens, BxTxC."""
        tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight], dim=0)
        return tokens.unsqueeze(0).expand(batch, -1, -1)

    def heads(self, hs: Tensor, src: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return logits Bx4x4Hx4W and IoUs Bx4 of transformer outputs BxNxC and BxHWxC."""
        b, _, c = src.shape
        src = src.transpose(1, 2).reshape(b, c, *grid)  # B x C x H x W
        upscaled = self.output_upscaling(src)  # B x C/8 x 4H x 4W
        tokens = hs[:, 1 : 1 + self.num_mask_tokens]
        hyper = torch.stack(
            [mlp(tokens[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )  # B x 4 x C/8
        masks = (hyper @ upscaled.flatten(2)).reshape(b, -1, 4 * grid[0], 4 * grid[1])
        return masks, self.iou_prediction_head(hs[:, 0])

    def forward(
        self, image_embeddings: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predict all masks, as the authors' `predict_masks` does.

        Args:
            image_embeddings: 1xCx64x64 of one image.
            image_pe: Positional encoding of the grid, 1xCx64x64.
            sparse: Embedded points and boxes, BxNxC.
            dense: Embedded masks, BxCx64x64.

        Returns:
            Logits Bx4x256x256 and IoU predictions Bx4.
        """
        batch = sparse.shape[0]
        tokens = torch.cat([self.output_tokens(batch), sparse], dim=1)
        # As in the authors' code, which repeats the image for each prompt.
        src = torch.repeat_interleave(image_embeddings, batch, dim=0) + dense
        pos = torch.repeat_interleave(image_pe, batch, dim=0)
        hs, src = self.transformer(src, pos, tokens)
        h, w = image_embeddings.shape[-2:]
        return self.heads(hs, src, (h, w))
