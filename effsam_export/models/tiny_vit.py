"""TinyViT-5M as MobileSAM uses it, with the authors' parameter names.

Source: ChaoningZhang/MobileSAM (commit 34bbbfd), `mobile_sam/modeling/tiny_vit_sam.py`, which
adapts Microsoft's TinyViT (MIT). Differences from the classifier: the last down-sampling has
stride 1, so that a 1024-pixel image gives a 64x64 map, and SAM's neck follows. The classifier's
`norm_head` and `head` are in the checkpoint, but unused.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn

from effsam_export.models.sam.layers import LayerNorm2d

EMBED_DIMS = (64, 128, 160, 320)
DEPTHS = (2, 2, 6, 2)
NUM_HEADS = (2, 4, 5, 10)
WINDOW_SIZES = (7, 7, 14, 7)
NUM_CLASSES = 1000
NECK_DIM = 256


class ConvBN(nn.Sequential):
    """Convolution without bias, then batch normalisation (names `c` and `bn`)."""

    def __init__(
        self, in_dim: int, out_dim: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        conv = nn.Conv2d(in_dim, out_dim, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.add_module("c", conv)
        self.add_module("bn", nn.BatchNorm2d(out_dim))


class PatchEmbed(nn.Module):
    """Two strided convolutions: 1x3x1024x1024 to 1x64x256x256."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(ConvBN(3, dim // 2, 3, 2), nn.GELU(), ConvBN(dim // 2, dim, 3, 2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.seq(x)
        return out


class MBConv(nn.Module):
    """Inverted residual block with expansion 4, on BxCxHxW."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = 4 * dim
        self.conv1 = ConvBN(dim, hidden)
        self.conv2 = ConvBN(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvBN(hidden, dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.conv1(x))
        y = self.act(self.conv2(y))
        out: Tensor = self.act(self.conv3(y) + x)
        return out


class PatchMerging(nn.Module):
    """Change the width of BxCxHxW, and halve the resolution if `stride` is 2."""

    def __init__(self, dim: int, out_dim: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(dim, out_dim)
        self.conv2 = ConvBN(out_dim, out_dim, 3, stride, groups=out_dim)
        self.conv3 = ConvBN(out_dim, out_dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv3(self.act(self.conv2(self.act(self.conv1(x)))))
        return out


class ConvLayer(nn.Module):
    """The first stage: MBConv blocks and a down-sampling."""

    def __init__(self, dim: int, out_dim: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(MBConv(dim) for _ in range(depth))
        self.downsample = PatchMerging(dim, out_dim, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.downsample(x)
        return out


class Mlp(nn.Module):
    """LayerNorm and two linear layers with expansion 4, on BxNxC."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(self.norm(x))))
        return out


class Attention(nn.Module):
    """Window attention with a learned bias per head and absolute (dy, dx) offset."""

    attention_bias_idxs: Tensor

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.key_dim = dim // num_heads
        self.scale = self.key_dim**-0.5
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        offsets, idxs = bias_table(window)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, offsets))
        self.register_buffer("attention_bias_idxs", torch.tensor(idxs), persistent=False)

    def bias(self) -> Tensor:
        """Return the attention bias, heads x N x N, from the current weights."""
        return self.attention_biases[:, self.attention_bias_idxs]

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """Return the scores of queries and keys B x heads x N x C/heads, B x heads x N x N."""
        scores: Tensor = q @ k.transpose(-2, -1) * self.scale
        return scores

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        # Layout per head: query, key, value.
        qkv = self.qkv(self.norm(x)).view(b, n, self.num_heads, 3 * self.key_dim)
        q, k, v = qkv.permute(0, 2, 1, 3).split(self.key_dim, dim=3)  # B x heads x N x C/heads
        weights = torch.softmax(self.scores(q, k) + self.bias(), dim=-1)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))
        return out


def bias_table(window: int) -> tuple[int, list[list[int]]]:
    """Return the number of distinct |dy|, |dx| offsets in a window, and the index of each pair."""
    points = list(product(range(window), range(window)))
    offsets: dict[tuple[int, int], int] = {}
    idxs = [
        [offsets.setdefault((abs(p[0] - q[0]), abs(p[1] - q[1])), len(offsets)) for q in points]
        for p in points
    ]
    return len(offsets), idxs


class TinyViTBlock(nn.Module):
    """Window attention, a depthwise convolution and an MLP, on BxCxHxW."""

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = Attention(dim, num_heads, window)
        self.mlp = Mlp(dim)
        self.local_conv = ConvBN(dim, dim, 3, groups=dim)

    def windows(self, x: Tensor) -> Tensor:
        """Attend inside each window of a BxHxWxC map, padded with zeros to whole windows.

        As in the authors' code, the padding comes before the attention's LayerNorm. Padded
        positions thus have the value of the norm's bias.
        """
        b, h, w, c = x.shape
        s = self.window
        if h == s and w == s:
            out: Tensor = self.attn(x.reshape(b, h * w, c)).view(b, h, w, c)
            return out
        pad_h, pad_w = -h % s, -w % s
        x = nn.functional.pad(x, (0, 0, 0, pad_w, 0, pad_h))
        nh, nw = (h + pad_h) // s, (w + pad_w) // s
        # Columns and channels of a window share an axis: no tensor has more than four axes.
        x = x.reshape(b * nh, s, nw, s * c).transpose(1, 2).reshape(b * nh * nw, s * s, c)
        x = self.attn(x)
        x = x.reshape(b * nh, nw, s, s * c).transpose(1, 2).reshape(b, nh * s, nw * s, c)
        return x[:, :h, :w]

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.windows(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.local_conv(x)
        b, c, h, w = x.shape
        tokens: Tensor = x.flatten(2).transpose(1, 2)  # B x HW x C
        tokens = tokens + self.mlp(tokens)
        return tokens.transpose(1, 2).reshape(b, c, h, w)


class BasicLayer(nn.Module):
    """A stage of attention blocks, then an optional down-sampling to the next stage."""

    def __init__(
        self, dim: int, depth: int, num_heads: int, window: int, downsample: PatchMerging | None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TinyViTBlock(dim, num_heads, window) for _ in range(depth))
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        out: Tensor = x if self.downsample is None else self.downsample(x)
        return out


class TinyViT(nn.Module):
    """Normalised image 1x3x1024x1024 to image embedding 1x256x64x64."""

    def __init__(self) -> None:
        super().__init__()
        d = EMBED_DIMS
        self.patch_embed = PatchEmbed(d[0])
        # The stride of the last merging is 1 in MobileSAM and 2 in the classifier.
        merging = (PatchMerging(d[1], d[2], stride=2), PatchMerging(d[2], d[3], stride=1), None)
        self.layers = nn.ModuleList([ConvLayer(d[0], d[1], DEPTHS[0])])
        for i, downsample in enumerate(merging, start=1):
            self.layers.append(
                BasicLayer(d[i], DEPTHS[i], NUM_HEADS[i], WINDOW_SIZES[i], downsample)
            )
        self.norm_head = nn.LayerNorm(d[-1])
        self.head = nn.Linear(d[-1], NUM_CLASSES)
        self.neck = nn.Sequential(
            nn.Conv2d(d[-1], NECK_DIM, kernel_size=1, bias=False),
            LayerNorm2d(NECK_DIM),
            nn.Conv2d(NECK_DIM, NECK_DIM, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(NECK_DIM),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.neck(x)
        return out
