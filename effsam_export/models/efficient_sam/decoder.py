"""EfficientSAM's mask decoder, with the authors' parameter names.

Source: yformer/EfficientSAM (commit d525f62), `efficient_sam/two_way_transformer.py`, `mlp.py` and
`efficient_sam_decoder.py`. Differences from SAM: the first block has a residual connection; the
second block adds the positions to the tokens themselves; MLPs have GELU; one GroupNorm over all
channels replaces the LayerNorm2d. Epsilons of LayerNorm and GroupNorm are PyTorch's 1e-5.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effsam_export.models.sam.transformer import Attention

NUM_MASKS = 4
"""The three masks that the authors return, and a first one that they do not."""


class MLPBlock(nn.Module):
    """`depth` linear layers, each followed by GELU, and a last one without."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, depth: int) -> None:
        super().__init__()
        dims = [in_dim, *[hidden_dim] * (depth - 1)]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, hidden_dim), nn.GELU()) for dim in dims
        )
        self.fc = nn.Linear(hidden_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.fc(x)
        return out


class TwoWayAttentionBlock(nn.Module):
    """Tokens attend to themselves and to the image; then the image attends to the tokens."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, *, add_positions: bool) -> None:
        super().__init__()
        self.self_attn = Attention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, num_heads, downsample_rate=2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLPBlock(dim, mlp_dim, dim, depth=1)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, num_heads, downsample_rate=2)
        self.add_positions = add_positions

    def forward(
        self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.add_positions:
            # Unlike SAM, values and the residual include the positions.
            queries = queries + query_pe
        queries = self.norm1(queries + self.self_attn(queries, queries, queries))

        attended = self.cross_attn_token_to_image(queries + query_pe, keys + key_pe, keys)
        queries = self.norm2(queries + attended)

        queries = self.norm3(queries + self.mlp(queries))

        attended = self.cross_attn_image_to_token(keys + key_pe, queries + query_pe, queries)
        return queries, self.norm4(keys + attended)


class TwoWayTransformer(nn.Module):
    """`depth` two-way blocks, then an attention from the tokens to the image."""

    def __init__(self, depth: int, dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayAttentionBlock(dim, num_heads, mlp_dim, add_positions=i > 0) for i in range(depth)
        )
        self.final_attn_token_to_image = Attention(dim, num_heads, downsample_rate=2)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, image: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Run the blocks and the last attention.

        Args:
            image: Image embedding BxCxHxW, or 1xCxHxW for all prompts.
            image_pe: Positional encoding of the grid, of the same shape.
            tokens: Output tokens and sparse prompt, BxNxC.

        Returns:
            The tokens BxNxC and the image as a sequence BxHWxC.
        """
        keys = image.flatten(2).transpose(1, 2)  # HW tokens of width C
        key_pe = image_pe.flatten(2).transpose(1, 2)
        queries = tokens
        for layer in self.layers:
            queries, keys = layer(queries, keys, tokens, key_pe)
        attended = self.final_attn_token_to_image(queries + tokens, keys + key_pe, keys)
        return self.norm_final_attn(queries + attended), keys


def upscaling(in_dim: int, out_dim: int, norm: nn.Module) -> nn.Sequential:
    """Return a transposed convolution that doubles the resolution, a norm and GELU."""
    conv = nn.ConvTranspose2d(in_dim, out_dim, kernel_size=2, stride=2)
    return nn.Sequential(conv, norm, nn.GELU())


class MaskDecoder(nn.Module):
    """Image embedding and sparse prompt embedding to mask logits and predicted IoUs."""

    def __init__(self, dim: int = 256) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(depth=2, dim=dim, num_heads=8, mlp_dim=2048)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(NUM_MASKS, dim)
        self.final_output_upscaling_layers = nn.ModuleList(
            [
                upscaling(dim, dim // 4, nn.GroupNorm(1, dim // 4)),
                upscaling(dim // 4, dim // 8, nn.Identity()),
            ]
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLPBlock(dim, dim, dim // 8, depth=2) for _ in range(NUM_MASKS)
        )
        self.iou_prediction_head = MLPBlock(dim, 256, NUM_MASKS, depth=2)

    def output_tokens(self, batch: int) -> Tensor:
        """Return the IoU token and the mask tokens, BxTxC."""
        tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight], dim=0)
        return tokens.unsqueeze(0).expand(batch, -1, -1)

    def forward(self, image: Tensor, image_pe: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
        """Predict all four masks, as the authors' `predict_masks` does.

        Args:
            image: Embedding of one image, 1xCx64x64.
            image_pe: Positional encoding of the grid, 1xCx64x64.
            sparse: Embedded points, BxNxC.

        Returns:
            Logits Bx4x256x256 and IoU predictions Bx4.
        """
        batch, (h, w) = sparse.shape[0], image.shape[-2:]
        tokens = torch.cat([self.output_tokens(batch), sparse], dim=1)
        # As in the authors' code, which repeats the image for each prompt.
        image = image.expand(batch, -1, -1, -1)
        pos = torch.repeat_interleave(image_pe, batch, dim=0)
        hs, src = self.transformer(image, pos, tokens)
        upscaled = src.transpose(1, 2).reshape(batch, -1, h, w)  # B x C x H x W
        for layer in self.final_output_upscaling_layers:
            upscaled = layer(upscaled)
        of_masks = hs[:, 1 : 1 + NUM_MASKS]
        hyper = torch.stack(
            [mlp(of_masks[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )  # B x 4 x C/8
        masks = (hyper @ upscaled.flatten(2)).reshape(batch, NUM_MASKS, 4 * h, 4 * w)
        return masks, self.iou_prediction_head(hs[:, 0])
