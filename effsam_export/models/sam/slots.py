"""The decoder for a fixed number of point slots, some of which may be empty.

In SAM's decoder, tokens attend to all others, including padding points of label -1. More padding
points would thus change the masks. Empty slots have the label -2 instead, and are masked out of
the two attentions whose keys are tokens: among the tokens, and from the image to the tokens. The
outputs for an empty slot are not used.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effsam_export.models.sam.export import ExportDecoder, WithStability
from effsam_export.models.sam.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer

EMPTY = -2
"""Label of a slot without a point."""

CLOSED = -3e4
"""Added to the score of an empty slot: its exp is 0 in FP32 and FP16, and it fits into FP16."""


class SlottedDecoder(ExportDecoder):
    """A decoder for prompts with empty slots among their points.

    Given: tokens of a prompt, to which all attend
    Result: tokens of all slots; none attends to those of label -2; the same masks
    """

    def __init__(self, decoder: ExportDecoder) -> None:
        nn.Module.__init__(self)
        for name, module in decoder.named_children():
            self.add_module(name, module)

    def attend(self, src: Tensor, tokens: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        empty = (labels == EMPTY).to(tokens.dtype) * CLOSED
        own = empty.new_zeros(empty.shape[0], tokens.shape[1] - empty.shape[1])
        closed = torch.cat([own, empty], dim=1)[:, None, None, :]  # B x 1 x 1 x tokens
        transformer = self.mask_decoder.transformer
        assert isinstance(transformer, TwoWayTransformer)
        return two_way(transformer, src, self.dense_pe(), tokens, closed)


def with_empty_slots(decoder: nn.Module) -> nn.Module:
    """Return a decoder for export that accepts empty slots."""
    if isinstance(decoder, WithStability):
        inner = with_empty_slots(decoder.decoder)
        assert isinstance(inner, ExportDecoder)
        return WithStability(inner, decoder.offset)
    assert isinstance(decoder, ExportDecoder)
    return SlottedDecoder(decoder)


def two_way(
    transformer: TwoWayTransformer, image: Tensor, image_pe: Tensor, tokens: Tensor, closed: Tensor
) -> tuple[Tensor, Tensor]:
    """Run `TwoWayTransformer` with `closed` (Bx1x1xN) added to the scores of the tokens."""
    keys = image.flatten(2).transpose(1, 2)  # B x HW x C
    key_pe = image_pe.flatten(2).transpose(1, 2)
    queries = tokens
    for layer in transformer.layers:
        assert isinstance(layer, TwoWayAttentionBlock)
        queries, keys = _block(layer, queries, keys, tokens, key_pe, closed)
    final = transformer.final_attn_token_to_image
    queries = queries + final(queries + tokens, keys + key_pe, keys)
    return transformer.norm_final_attn(queries), keys


def _block(
    layer: TwoWayAttentionBlock,
    queries: Tensor,
    keys: Tensor,
    query_pe: Tensor,
    key_pe: Tensor,
    closed: Tensor,
) -> tuple[Tensor, Tensor]:
    if layer.skip_first_layer_pe:
        queries = _attention(layer.self_attn, queries, queries, queries, closed)
    else:
        q = queries + query_pe
        queries = queries + _attention(layer.self_attn, q, q, queries, closed)
    queries = layer.norm1(queries)
    to_image = layer.cross_attn_token_to_image(queries + query_pe, keys + key_pe, keys)
    queries = layer.norm2(queries + to_image)
    queries = layer.norm3(queries + layer.mlp(queries))
    to_token = layer.cross_attn_image_to_token
    keys = keys + _attention(to_token, keys + key_pe, queries + query_pe, queries, closed)
    return queries, layer.norm4(keys)


def _attention(attention: Attention, q: Tensor, k: Tensor, v: Tensor, closed: Tensor) -> Tensor:
    """Run `Attention` with `closed` added to the scores."""
    q, k, v = (
        attention.split_heads(projection(x))
        for projection, x in ((attention.q_proj, q), (attention.k_proj, k), (attention.v_proj, v))
    )
    weights = torch.softmax(q @ k.transpose(-2, -1) * attention.scale + closed, dim=-1)
    out: Tensor = attention.out_proj((weights @ v).transpose(1, 2).flatten(2))
    return out
