"""SAM's two-way transformer for export: its products in the order that is cheapest for few tokens.

A prompt has T tokens (7 for a point or a box), and the image N (4096). Between them, the authors
project each image token to heads of 16 channels, 128 in all, before its product with the tokens:

    scores = (x Q + q)(y K + k)' for each head, with tokens x and image tokens y of 256 channels

Here the tokens are projected back instead, to 256 channels for each head:

    scores = ((x Q + q) K') y' + c, where c is one number for each token

The values of an attention and its output are reordered alike. That is exact, and costs 256 x 8T
instead of 256 x 128 + 128T products for an image token: less for up to 16 tokens. No tensor of the
image's size is split into heads, which would copy it.

In the first block, the image tokens of all prompts are the same but for their mask inputs. Where
these are given as a product of low rank (`MaskTerm`), the block projects the image once for all
prompts, as the authors do, and adds the products of the term.

Modules have the names of the authors', and share their weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from effsam_export.models.sam.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer


@dataclass(frozen=True, kw_only=True)
class MaskTerm:
    """What the mask inputs of prompts add to the image tokens that all prompts share.

    It is `features` @ `weights`.

    Attributes:
        features: BxNxR.
        weights: RxC.
    """

    features: Tensor
    weights: Tensor

    def of_heads(self, projection: nn.Linear, heads: int) -> Tensor:
        """Return the weights behind a projection: heads x inner/heads x R."""
        return by_heads((self.weights @ projection.weight.transpose(0, 1)).transpose(0, 1), heads)


class SelfAttention(Attention):
    """An attention among tokens, some of which may be closed to the others."""

    def __init__(self, attention: Attention) -> None:
        share_attention(self, attention)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, closed: Tensor | None = None) -> Tensor:
        q = self.split_heads(self.q_proj(q))  # B x heads x T x C/heads
        k = self.split_heads(self.k_proj(k))
        v = self.split_heads(self.v_proj(v))
        scores = q @ k.transpose(-2, -1) * self.scale
        weights = torch.softmax(scores if closed is None else scores + closed, dim=-1)
        out: Tensor = self.out_proj((weights @ v).transpose(1, 2).flatten(2))
        return out


class TokenToImage(Attention):
    """The attention of tokens BxTxC to the image BxNxC.

    Weights of a softmax sum to 1, and a number added to all scores changes none. So the bias of
    the keys falls away, and that of the values is added to their mean.
    """

    def __init__(self, attention: Attention) -> None:
        share_attention(self, attention)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, masks: MaskTerm | None = None) -> Tensor:
        """Return BxTxC. With `masks`, the keys and values given are 1xNxC, without the term."""
        probes = self.split_heads(self.q_proj(q)) * self.scale  # B x heads x T x C/heads
        means = self._of_image(probes, k, v) if masks is None else self._shared(probes, k, v, masks)
        out: Tensor = self.out_proj(means.transpose(1, 2).flatten(2) + self.v_proj.bias)
        return out

    def _of_image(self, probes: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the mean values without their bias, B x heads x T x C/heads."""
        scores = widened(probes, by_heads(self.k_proj.weight, self.num_heads)) @ k.transpose(1, 2)
        means = torch.softmax(scores, dim=-1) @ v  # B x heads*T x C
        means = means.reshape(-1, self.num_heads, probes.shape[2], v.shape[2])
        return means @ by_heads(self.v_proj.weight, self.num_heads).transpose(1, 2)

    def _shared(self, probes: Tensor, k: Tensor, v: Tensor, masks: MaskTerm) -> Tensor:
        heads, tokens, cells = self.num_heads, probes.shape[2], k.shape[1]
        k, v = (
            self.split_heads(x @ linear.weight.transpose(0, 1))  # 1 x heads x N x C/heads
            for x, linear in ((k, self.k_proj), (v, self.v_proj))
        )
        of_masks = widened(probes, masks.of_heads(self.k_proj, heads))  # B x heads*T x R
        scores = (probes @ k.transpose(2, 3)).flatten(1, 2)
        scores = scores + of_masks @ masks.features.transpose(1, 2)
        weights = torch.softmax(scores, dim=-1)  # B x heads*T x N
        of_masks = (weights @ masks.features).reshape(-1, heads, tokens, masks.weights.shape[0])
        means = weights.reshape(-1, heads, tokens, cells) @ v
        return means + of_masks @ masks.of_heads(self.v_proj, heads).transpose(1, 2)


class ImageToToken(Attention):
    """The attention of the image BxNxC to tokens BxTxC, some of which may be closed to it."""

    def __init__(self, attention: Attention) -> None:
        share_attention(self, attention)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        closed: Tensor | None = None,
        masks: MaskTerm | None = None,
    ) -> Tensor:
        """Return BxNxC. With `masks`, the given queries are 1xNxC, and the term is added to it."""
        heads, tokens = self.num_heads, k.shape[1]
        probes = self.split_heads(self.k_proj(k)) * self.scale  # B x heads x T x C/heads
        scores = self._scores(q, probes) if masks is None else self._shared(q, probes, masks)
        scores = scores.reshape(-1, q.shape[1], heads, tokens)
        weights = torch.softmax(scores if closed is None else scores + closed, dim=-1).flatten(2)
        outputs = by_heads(self.out_proj.weight.transpose(0, 1), heads)
        values = widened(self.split_heads(self.v_proj(v)), outputs)  # B x heads*T x C
        if masks is not None:
            # One product instead of two and a sum.
            weights = torch.cat([weights, masks.features], dim=2)
            values = torch.cat([values, masks.weights.expand(values.shape[0], -1, -1)], dim=1)
        return weights @ values + self.out_proj.bias

    def _scores(self, q: Tensor, probes: Tensor) -> Tensor:
        """Return the scores B x N x heads*T."""
        bias = (probes * self.q_proj.bias.reshape(self.num_heads, 1, -1)).sum(-1).flatten(1)
        image = widened(probes, by_heads(self.q_proj.weight, self.num_heads))  # B x heads*T x C
        return q @ image.transpose(1, 2) + bias[:, None]

    def _shared(self, q: Tensor, probes: Tensor, masks: MaskTerm) -> Tensor:
        q = self.split_heads(self.q_proj(q))  # 1 x heads x N x C/heads
        scores = (q @ probes.transpose(2, 3)).transpose(1, 2).flatten(2)
        of_masks = widened(probes, masks.of_heads(self.q_proj, self.num_heads))
        return scores + masks.features @ of_masks.transpose(1, 2)


class ExportBlock(TwoWayAttentionBlock):
    """`TwoWayAttentionBlock` for export."""

    def __init__(self, block: TwoWayAttentionBlock) -> None:
        share(self, block)
        self.skip_first_layer_pe = block.skip_first_layer_pe
        self.self_attn = SelfAttention(block.self_attn)
        self.cross_attn_token_to_image = TokenToImage(block.cross_attn_token_to_image)
        self.cross_attn_image_to_token = ImageToToken(block.cross_attn_image_to_token)

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        query_pe: Tensor,
        key_pe: Tensor,
        closed: Tensor | None = None,
        masks: MaskTerm | None = None,
    ) -> tuple[Tensor, Tensor]:
        if self.skip_first_layer_pe:
            queries = self.self_attn(queries, queries, queries, closed)
        else:
            q = queries + query_pe
            queries = queries + self.self_attn(q, q, queries, closed)
        queries = self.norm1(queries)
        placed = keys + key_pe
        attended = self.cross_attn_token_to_image(queries + query_pe, placed, keys, masks)
        queries = self.norm2(queries + attended)
        queries = self.norm3(queries + self.mlp(queries))
        attended = self.cross_attn_image_to_token(
            placed, queries + query_pe, queries, closed, masks
        )
        return queries, self.norm4(keys + attended)


class ExportTransformer(TwoWayTransformer):
    """`TwoWayTransformer` for export. It leaves the given one unchanged."""

    def __init__(self, transformer: TwoWayTransformer) -> None:
        share(self, transformer)
        self.layers = nn.ModuleList()
        for block in transformer.layers:
            assert isinstance(block, TwoWayAttentionBlock)
            self.layers.append(ExportBlock(block))
        self.final_attn_token_to_image = TokenToImage(transformer.final_attn_token_to_image)

    def forward(
        self,
        image: Tensor,
        image_pe: Tensor,
        tokens: Tensor,
        closed: Tensor | None = None,
        masks: MaskTerm | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run the blocks and the last attention.

        Args:
            image: Image embedding plus dense prompt, BxCxHxW; 1xCxHxW for `masks`.
            image_pe: Positional encoding of the grid, 1xCxHxW.
            tokens: Output tokens and sparse prompt, BxTxC.
            closed: Added to the scores of each token as a key, Bx1x1xT; None for zeros.
            masks: What each prompt adds to the image; None for nothing.

        Returns:
            The tokens BxTxC and the image as a sequence BxHWxC.
        """
        keys = image.flatten(2).transpose(1, 2)
        key_pe = image_pe.flatten(2).transpose(1, 2)
        queries = tokens
        for layer in self.layers:
            queries, keys = layer(queries, keys, tokens, key_pe, closed, masks)
            masks = None  # It is part of the keys now.
        queries = queries + self.final_attn_token_to_image(queries + tokens, keys + key_pe, keys)
        return self.norm_final_attn(queries), keys


def share(twin: nn.Module, original: nn.Module) -> None:
    """Initialise a module with the children of another one."""
    nn.Module.__init__(twin)
    for name, child in original.named_children():
        twin.add_module(name, child)


def share_attention(twin: Attention, original: Attention) -> None:
    """Initialise an attention with the weights of another one."""
    share(twin, original)
    twin.num_heads, twin.scale = original.num_heads, original.scale


def by_heads(weight: Tensor, heads: int) -> Tensor:
    """Return a weight of inner x C as heads x inner/heads x C."""
    return weight.reshape(heads, -1, weight.shape[1])


def widened(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply each head of x, B x heads x T x C/heads, to all C channels: B x heads*T x C."""
    return (x @ weight).flatten(1, 2)
