"""Expedit-SAM's encoder: SAM's ViT, which clusters its tokens half-way. No extra parameters.

Source: Expedit-LargeScale-Vision-Transformer/Expedit-SAM (commit 75a1c30),
`segment_anything/modeling/hourglass_image_encoder.py`. Before block `location`, the 196 tokens of
each 14x14 window are reduced to s x s cluster centres. After the last block, the tokens are
reconstructed from their nearest centres. Padded tokens of the windows are included.
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from effsam_export.models.vit import (
    Attention,
    Block,
    ExportAttention,
    ImageEncoderViT,
    from_windows,
    to_windows,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from effsam_export.spec.sizes import Size

WINDOW = 14
CLOSED = 1e16
"""Added to the distance between a token and a centre that it may not belong to."""

MIN_WEIGHT = 1e-16
FP16_CLOSED = 3e4
"""Subtracted from the logit in the export form: its exp is zero too, and FP16 can hold it."""


@dataclass(frozen=True, kw_only=True)
class Clustering:
    """Parameters of clustering and reconstruction, with the authors' names in brackets.

    Attributes:
        location: Block before which tokens are clustered (`hourglass_clustering_location`).
        clusters: Centres per window, a square number (`hourglass_num_cluster`).
        iterations: Iterations of soft assignment (`hourglass_cluster_iters`).
        temperature: Factor of the distance in both soft assignments (`hourglass_temperture`).
        window: Side of the neighbourhood of centres that a token may belong to, odd
            (`hourglass_cluster_window_size`).
        k: Number of nearest centres in the reconstruction (`hourglass_reconstruction_k`).
    """

    location: int
    clusters: int
    iterations: int
    temperature: float
    window: int
    k: int

    @property
    def side(self) -> int:
        """Number of centres along one side of a window."""
        return math.isqrt(self.clusters)


def closed_pairs(side: int, reach: int) -> Tensor:
    """Return extra distances (side^2) x 196: 0 where a token may belong to a centre, else 1e16.

    A token lies in the cell of one centre. It may belong to the centres at most `reach` rows and
    columns away from that one.
    """
    cell = torch.arange(WINDOW) * side // WINDOW
    row, column = torch.meshgrid(cell, cell, indexing="ij")
    centre_row, centre_column = torch.meshgrid(
        torch.arange(side), torch.arange(side), indexing="ij"
    )
    near = (centre_row.reshape(-1, 1) - row.reshape(1, -1)).abs() <= reach
    near &= (centre_column.reshape(-1, 1) - column.reshape(1, -1)).abs() <= reach
    return (~near).float() * CLOSED


def squared_distances(centres: Tensor, tokens: Tensor) -> Tensor:
    """Return squared distances BxMxN of centres BxMxC and tokens BxNxC."""
    products = centres @ tokens.transpose(1, 2)
    return tokens.pow(2).sum(-1).unsqueeze(1) + centres.pow(2).sum(-1).unsqueeze(2) - 2 * products


class TokenClustering(nn.Module):
    """Windows Bx14x14xC to cluster centres Bx(s*s)xC."""

    closed: Tensor

    def __init__(self, rule: Clustering) -> None:
        super().__init__()
        self.rule = rule
        closed = closed_pairs(rule.side, rule.window // 2)
        self.register_buffer("closed", closed, persistent=False)

    def first_centres(self, windows: Tensor) -> Tensor:
        """Return the means over the cells of a regular s x s grid, Bx(s*s)xC."""
        pooled = nn.functional.adaptive_avg_pool2d(windows.permute(0, 3, 1, 2), self.rule.side)
        return pooled.flatten(2).transpose(1, 2)

    def forward(self, windows: Tensor) -> Tensor:
        tokens = windows.flatten(1, 2)
        centres = self.first_centres(windows)
        for _ in range(self.rule.iterations):
            share = self.logits(squared_distances(centres, tokens)).softmax(1)  # over centres
            centres = (share @ tokens) / self.divisor(share.sum(2, keepdim=True))
        return centres

    def logits(self, distances: Tensor) -> Tensor:
        """Return assignment logits for distances; far below all others for closed pairs."""
        return -(distances + self.closed) * self.rule.temperature

    def divisor(self, total: Tensor) -> Tensor:
        """Return the denominator of a centre's weighted mean, kept above zero."""
        return total.clamp(min=MIN_WEIGHT)


class ExportTokenClustering(TokenClustering):
    """The same clustering with numbers in the range of FP16. FP32 results are equal bit for bit.

    Given: 1e16 added to a distance; sums of weights clamped to at least 1e-16
    Result: 3e4 subtracted from a logit, whose softmax is zero too; a sum of zero becomes one

    The first means are a product with a constant matrix, because cells overlap if s does not
    divide 14.
    """

    means: Tensor

    def __init__(self, rule: Clustering) -> None:
        super().__init__(rule)
        unit = torch.eye(WINDOW**2).reshape(WINDOW**2, 1, WINDOW, WINDOW)
        pooled = nn.functional.adaptive_avg_pool2d(unit, rule.side)
        self.closed = self.closed / CLOSED * FP16_CLOSED
        self.register_buffer(
            "means", pooled.reshape(WINDOW**2, -1).T.contiguous(), persistent=False
        )

    def first_centres(self, windows: Tensor) -> Tensor:
        return self.means @ windows.flatten(1, 2)

    def logits(self, distances: Tensor) -> Tensor:
        return -distances * self.rule.temperature - self.closed

    def divisor(self, total: Tensor) -> Tensor:
        total = super().divisor(total)
        return total + (total == 0).to(total.dtype)


def rebuild(tokens: Tensor, centres: Tensor, processed: Tensor, rule: Clustering) -> Tensor:
    """Return tokens BxNxC reconstructed from processed centres BxMxC.

    The weights are exp(-temperature * distance) to the centres before the blocks. Only the k
    nearest centres count, and any at the same distance as the last of them. The weights have unit
    L2 norm, not unit sum.
    """
    distances = squared_distances(tokens, centres).clamp(min=0)  # B x N x M
    weights = torch.exp(-rule.temperature * distances)
    smallest = weights.topk(rule.k, dim=2).values[..., -1:]
    nearest = torch.where(weights >= smallest, weights, torch.zeros_like(weights))
    return nn.functional.normalize(nearest, dim=2) @ processed


class Rebuilding(nn.Module):
    """`rebuild` as a module, so that a precision recipe can name it."""

    def __init__(self, rule: Clustering) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, tokens: Tensor, centres: Tensor, processed: Tensor) -> Tensor:
        return rebuild(tokens, centres, processed, self.rule)


class ExpeditEncoder(ImageEncoderViT):
    """SAM's encoder with clustering. It loads SAM's weights unchanged."""

    clustering: TokenClustering

    def __init__(
        self,
        rule: Clustering,
        *,
        dim: int,
        depth: int,
        num_heads: int,
        global_blocks: Sequence[int],
        image_size: Size = 1024,
    ) -> None:
        super().__init__(
            dim=dim,
            depth=depth,
            num_heads=num_heads,
            global_blocks=global_blocks,
            image_size=image_size,
        )
        self.rule = rule
        for block in list(self.blocks)[rule.location :]:
            assert isinstance(block, Block)
            # Relative positions are stored for 14 tokens and interpolated to s.
            block.window = block.window and rule.side
        self.clustering = TokenClustering(rule)
        self.rebuilding = Rebuilding(rule)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x) + self.pos_embed
        h, w = x.shape[1:3]
        side = self.rule.side
        grid = -(-h // WINDOW) * side, -(-w // WINDOW) * side
        for block in self.blocks[: self.rule.location]:
            x = block(x)
        windows = to_windows(x, WINDOW)
        centres = self.clustering(windows)
        x = from_windows(centres.reshape(centres.shape[0], side, side, -1), *grid)
        for block in self.blocks[self.rule.location :]:
            x = block(x)
        processed = to_windows(x, side).flatten(1, 2)
        tokens = self.rebuilding(windows.flatten(1, 2), centres, processed)
        x = from_windows(tokens.reshape(windows.shape), h, w)
        out: Tensor = self.neck(x.permute(0, 3, 1, 2))
        return out


def export_form(encoder: nn.Module) -> nn.Module:
    """Return a copy for export that shares all weights.

    Relative positions are constants for the size of map that each block gets, and the first
    cluster centres are one matrix product.
    """
    assert isinstance(encoder, ExpeditEncoder)
    rule = encoder.rule
    grid = encoder.pos_embed.shape[1], encoder.pos_embed.shape[2]
    clustered = -(-grid[0] // WINDOW) * rule.side, -(-grid[1] // WINDOW) * rule.side
    blocks = nn.ModuleList()
    for i, block in enumerate(encoder.blocks):
        assert isinstance(block, Block)
        assert isinstance(block.attn, Attention)
        twin = copy(block)
        size = block.window or (grid if i < rule.location else clustered)
        twin._modules = {**block._modules, "attn": ExportAttention(block.attn, size)}
        blocks.append(twin)
    form = copy(encoder)
    form._modules = {
        **encoder._modules,
        "blocks": blocks,
        "clustering": ExportTokenClustering(rule),
    }
    return form
