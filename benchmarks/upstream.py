"""MobileSAM as samexporter 0.5.0 exports it: the other side of the comparison, written anew.

Our own modules with the trained sub-modules borrowed from `Sam`, in the arithmetic and layout that
upstream's wrappers trace (tokens BxNxC in the encoder; labels compared one by one, the image
repeated per prompt, and the masks resized to the original size in the decoder), written by the
same exporter call: TorchScript, opset 18, constants folded. `benchmarks/README.md` says how equal
the files are to upstream's own.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from effsam_export.models.sam.transformer import TwoWayAttentionBlock
from effsam_export.models.tiny_vit import BasicLayer, PatchMerging, TinyViT, TinyViTBlock
from effsam_export.spec.sizes import Size, sides

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from effsam_export.models.sam.module import Sam
    from effsam_export.models.sam.transformer import Attention, TwoWayTransformer

OPSET = 18
ENCODER_FILE = "encoder.onnx"
DECODER_FILE = "decoder.onnx"
POINTS_TRACED = 5
ORIGINAL_TRACED = (1500, 2250)
"""Original (height, width) in the decoder's tracing inputs; the graph takes any."""


def side_of(size: Size) -> int:
    """Return the side of a square."""
    height, width = sides(size)
    assert height == width, size
    return height


# ------------------------------------------------------------------ encoder


class UpstreamBlock(nn.Module):
    """A TinyViT block on a token sequence BxNxC of a square map."""

    bias: Tensor

    def __init__(self, block: TinyViTBlock, side: int) -> None:
        super().__init__()
        self.block = block
        self.side = side
        # Upstream keeps the gathered table of an eval-mode module: heads x N x N, not the index.
        self.register_buffer("bias", block.attn.bias().detach(), persistent=False)

    def attend(self, x: Tensor) -> Tensor:
        """Attention inside windows BxNxC."""
        attn = self.block.attn
        b, n, c = x.shape
        qkv = attn.qkv(attn.norm(x)).view(b, n, attn.num_heads, -1)
        q, k, v = (part.permute(0, 2, 1, 3) for part in qkv.split([attn.key_dim] * 3, dim=3))
        weights = (q @ k.transpose(-2, -1) * attn.scale + self.bias).softmax(dim=-1)
        out: Tensor = attn.proj((weights @ v).transpose(1, 2).reshape(b, n, c))
        return out

    def windows(self, x: Tensor) -> Tensor:
        """Cut the map into padded windows, attend, and put it together again."""
        side, window = self.side, self.block.window
        if side == window:
            return self.attend(x)
        b, n, c = x.shape
        pad = -side % window
        x = x.view(b, side, side, c)
        if pad:
            x = functional.pad(x, (0, 0, 0, pad, 0, pad))
        padded = side + pad
        count = padded // window
        x = x.view(b, count, window, count, window, c).transpose(2, 3)
        x = self.attend(x.reshape(b * count * count, window * window, c))
        x = x.view(b, count, count, window, window, c).transpose(2, 3)
        x = x.reshape(b, padded, padded, c)
        if pad:
            x = x[:, :side, :side].contiguous()
        return x.view(b, n, c)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        x = x + self.windows(x)
        x = self.block.local_conv(x.transpose(1, 2).reshape(b, c, self.side, self.side))
        x = x.view(b, c, n).transpose(1, 2)
        out: Tensor = x + self.block.mlp(x)
        return out


class UpstreamEncoder(nn.Module):
    """`input_image` 1x3xSxS, already normalised and padded, to `image_embeddings`."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        encoder = sam.image_encoder
        assert isinstance(encoder, TinyViT)
        self.encoder = encoder
        side = side_of(sam.rule.image_size) // 8
        self.stages: list[tuple[nn.Sequential, PatchMerging | None, int]] = []
        for layer in list(encoder.layers)[1:]:
            assert isinstance(layer, BasicLayer)
            blocks = [b for b in layer.blocks if isinstance(b, TinyViTBlock)]
            stage = nn.Sequential(*(UpstreamBlock(b, side) for b in blocks))
            self.stages.append((stage.eval(), layer.downsample, side))
            if layer.downsample is not None:
                conv = layer.downsample.conv2.get_submodule("c")
                assert isinstance(conv, nn.Conv2d)
                side //= conv.stride[0]
        self.side = side

    @staticmethod
    def to_map(x: Tensor, side: int) -> Tensor:
        """Tokens BxNxC to a map BxCxHxW."""
        b, _, c = x.shape
        return x.view(b, side, side, c).permute(0, 3, 1, 2)

    def forward(self, input_image: Tensor) -> Tensor:
        encoder = self.encoder
        x = encoder.layers[0](encoder.patch_embed(input_image)).flatten(2).transpose(1, 2)
        for stage, merging, side in self.stages:
            x = stage(x)
            if merging is not None:
                x = merging(self.to_map(x, side)).flatten(2).transpose(1, 2)
        out: Tensor = encoder.neck(self.to_map(x, self.side))
        return out


# ------------------------------------------------------------------ decoder


def attend(attn: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Multi-head attention that divides by the root of the width, read from the shape."""
    split = []
    for x in (attn.q_proj(q), attn.k_proj(k), attn.v_proj(v)):
        b, n, c = x.shape
        split.append(x.reshape(b, n, attn.num_heads, c // attn.num_heads).transpose(1, 2))
    q, k, v = split
    width = q.shape[-1]
    weights = torch.softmax(q @ k.permute(0, 1, 3, 2) / math.sqrt(width), dim=-1)
    out = weights @ v
    b, heads, n, c = out.shape
    projected: Tensor = attn.out_proj(out.transpose(1, 2).reshape(b, n, heads * c))
    return projected


def transform(
    transformer: TwoWayTransformer, image: Tensor, image_pe: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """The two-way transformer: tokens BxNxC and the image as BxHWxC."""
    keys = image.flatten(2).permute(0, 2, 1)
    key_pe = image_pe.flatten(2).permute(0, 2, 1)
    queries = tokens
    for layer in transformer.layers:
        assert isinstance(layer, TwoWayAttentionBlock)
        if layer.skip_first_layer_pe:
            queries = attend(layer.self_attn, queries, queries, queries)
        else:
            q = queries + tokens
            queries = queries + attend(layer.self_attn, q, q, queries)
        queries = layer.norm1(queries)
        q, k = queries + tokens, keys + key_pe
        queries = layer.norm2(queries + attend(layer.cross_attn_token_to_image, q, k, keys))
        queries = layer.norm3(queries + layer.mlp(queries))
        # Added anew although `k` is the same: upstream's graph holds it twice.
        q, k = queries + tokens, keys + key_pe
        keys = layer.norm4(keys + attend(layer.cross_attn_image_to_token, k, q, queries))
    final = attend(transformer.final_attn_token_to_image, queries + tokens, keys + key_pe, keys)
    return transformer.norm_final_attn(queries + final), keys


class UpstreamDecoder(nn.Module):
    """Prompt encoder, mask decoder and mask post-processing as one graph, for one prompt a call.

    Outputs `masks` 1x4xHxW at original size, `iou_predictions` 1x4, `low_res_masks` 1x4x256x256.
    """

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam

    def embed_points(self, coords: Tensor, labels: Tensor) -> Tensor:
        """Coordinates 1xNx2 and labels 1xN to the sparse embedding 1xNxC."""
        encoder = self.sam.prompt_encoder
        x = encoder.pe_layer.encode((coords + 0.5) / side_of(self.sam.rule.image_size))
        labels = labels.unsqueeze(-1).expand_as(x)
        x = x * (labels != -1)
        x = x + encoder.not_a_point_embed.weight * (labels == -1)
        for i in range(len(encoder.point_embeddings)):
            x = x + encoder.label_embedding(i) * (labels == i)
        return x

    def embed_mask(self, mask_input: Tensor, has_mask_input: Tensor) -> Tensor:
        """Mask 1x1x256x256 and its flag to the dense embedding."""
        encoder = self.sam.prompt_encoder
        dense: Tensor = has_mask_input * encoder.mask_downscaling(mask_input)
        return dense + (1 - has_mask_input) * encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)

    def decode(self, image: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """The mask decoder, with the image and its positions repeated once per prompt."""
        decoder = self.sam.mask_decoder
        batch = sparse.size(0)
        tokens = torch.cat([decoder.output_tokens(batch), sparse], dim=1)
        src = torch.repeat_interleave(image, tokens.shape[0], dim=0) + dense
        pe = self.sam.prompt_encoder.dense_pe()
        b, c, h, w = src.shape
        hs, src = transform(
            decoder.transformer, src, torch.repeat_interleave(pe, tokens.shape[0], dim=0), tokens
        )
        upscaled = decoder.output_upscaling(src.transpose(1, 2).view(b, c, h, w))
        chosen = hs[:, 1 : 1 + decoder.num_mask_tokens, :]
        mlps = decoder.output_hypernetworks_mlps
        hyper = torch.stack([mlp(chosen[:, i, :]) for i, mlp in enumerate(mlps)], dim=1)
        b, c, h, w = upscaled.shape
        masks = (hyper @ upscaled.view(b, c, h * w)).view(b, -1, h, w)
        return masks, decoder.iou_prediction_head(hs[:, 0, :])

    def postprocess(self, masks: Tensor, original: Tensor) -> Tensor:
        """Logits 1x4x256x256 to the original (height, width), by way of the model frame."""
        size = side_of(self.sam.rule.image_size)
        masks = functional.interpolate(masks, (size, size), mode="bilinear", align_corners=False)
        sides = original.to(torch.float32)
        resized = torch.floor(size / torch.max(sides) * sides + 0.5).to(torch.int64)
        masks = masks[..., : resized[0], : resized[1]]
        h, w = original.to(torch.int64)[0], original.to(torch.int64)[1]
        # Tensors, so that the trace keeps them as inputs of the graph.
        wanted: tuple[int, int] = (h, w)  # type: ignore[assignment]
        return functional.interpolate(masks, wanted, mode="bilinear", align_corners=False)

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        sparse = self.embed_points(point_coords, point_labels)
        dense = self.embed_mask(mask_input, has_mask_input)
        low_res, iou = self.decode(image_embeddings, sparse, dense)
        return self.postprocess(low_res, orig_im_size), iou, low_res


# ------------------------------------------------------------------ export


def export_encoder(sam: Sam, directory: Path) -> Path:
    """Write the upstream-style encoder into a directory and return its path."""
    image = torch.zeros(1, 3, *sides(sam.rule.image_size))
    path = directory / ENCODER_FILE
    export_module(UpstreamEncoder(sam), {"input_image": image}, ["image_embeddings"], path)
    return path


def export_decoder(sam: Sam, directory: Path) -> Path:
    """Write the upstream-style decoder into a directory and return its path."""
    side, dim = side_of(sam.embedding_size), sam.prompt_encoder.dim
    inputs = {
        "image_embeddings": torch.zeros(1, dim, side, side),
        "point_coords": torch.zeros(1, POINTS_TRACED, 2),
        "point_labels": torch.ones(1, POINTS_TRACED),
        "mask_input": torch.zeros(1, 1, 4 * side, 4 * side),
        "has_mask_input": torch.ones(1),
        "orig_im_size": torch.tensor(ORIGINAL_TRACED, dtype=torch.float32),
    }
    path = directory / DECODER_FILE
    outputs = ["masks", "iou_predictions", "low_res_masks"]
    export_module(
        UpstreamDecoder(sam), inputs, outputs, path, dynamic=("point_coords", "point_labels")
    )
    return path


def export_module(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: list[str],
    path: Path,
    dynamic: tuple[str, ...] = (),
) -> None:
    """Write a module by TorchScript's exporter with samexporter's settings.

    Args:
        module: The module.
        inputs: Tracing inputs by name.
        outputs: Names of its outputs.
        path: The file.
        dynamic: Inputs that vary in their number of points.
    """
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter is deprecated, and says so; that it is used is the point here.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            path,
            dynamo=False,
            opset_version=OPSET,
            do_constant_folding=True,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes={name: {1: "num_points"} for name in dynamic},
        )
