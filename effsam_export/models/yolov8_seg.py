"""YOLOv8-seg as FastSAM uses it, with the parameter names of its checkpoints.

Architecture facts: CASIA-IVA-Lab/FastSAM (commit b4ed20c), `yolov8-seg.yaml` of its bundled
ultralytics 8.0.120, and the tensor names and shapes of its checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from effsam_export.models.folding import fold_batch_norms
from effsam_export.spec.sizes import sides

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.spec.sizes import Size

BN_EPS = 1e-3
STRIDES = (8, 16, 32)
COEFFICIENTS = 32
HEAD = "model.22"


@dataclass(frozen=True, kw_only=True)
class YoloSize:
    """Sizes of one YOLOv8-seg.

    Attributes:
        widths: Channels at strides 2, 4, 8, 16 and 32.
        depths: Bottlenecks of the backbone's four C2f blocks.
        head_depth: Bottlenecks of the head's C2f blocks.
        proto: Hidden channels of the prototype branch.
        reg_max: Number of bins of the distance from an anchor to a side of a box.
        classes: Number of classes.
    """

    widths: tuple[int, int, int, int, int]
    depths: tuple[int, int, int, int]
    head_depth: int
    proto: int
    reg_max: int
    classes: int = 1


SMALL = YoloSize(
    widths=(32, 64, 128, 256, 512), depths=(1, 2, 2, 1), head_depth=1, proto=128, reg_max=16
)
EXTRA_LARGE = YoloSize(
    widths=(80, 160, 320, 640, 640), depths=(3, 6, 6, 3), head_depth=3, proto=320, reg_max=26
)


def size_of(state: Mapping[str, Tensor]) -> YoloSize | None:
    """Return the size of a state dict with FastSAM's names, or None for other names."""
    try:
        stem, w1, w2, w3, w4 = (state[f"model.{i}.conv.weight"].shape[0] for i in (0, 1, 3, 5, 7))
        d0, d1, d2, d3 = (_bottlenecks(state, i) for i in (2, 4, 6, 8))
        return YoloSize(
            widths=(stem, w1, w2, w3, w4),
            depths=(d0, d1, d2, d3),
            head_depth=_bottlenecks(state, 12),
            proto=state[f"{HEAD}.proto.cv1.conv.weight"].shape[0],
            reg_max=state[f"{HEAD}.dfl.conv.weight"].shape[1],
            classes=state[f"{HEAD}.cv3.0.2.weight"].shape[0],
        )
    except KeyError:
        return None


def _bottlenecks(state: Mapping[str, Tensor], layer: int) -> int:
    count = 0
    while f"model.{layer}.m.{count}.cv1.conv.weight" in state:
        count += 1
    return count


class Conv(nn.Module):
    """Convolution without bias, batch norm, SiLU."""

    def __init__(self, in_dim: int, out_dim: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dim, out_dim, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_dim, eps=BN_EPS)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out


class Bottleneck(nn.Module):
    """Two 3x3 convolutions, with a shortcut in the backbone and without in the head."""

    def __init__(self, dim: int, *, shortcut: bool) -> None:
        super().__init__()
        self.cv1 = Conv(dim, dim, 3)
        self.cv2 = Conv(dim, dim, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.cv2(self.cv1(x))
        return x + out if self.shortcut else out


class C2f(nn.Module):
    """Bottlenecks on half of the channels; all intermediate maps are concatenated."""

    def __init__(self, in_dim: int, out_dim: int, depth: int, *, shortcut: bool) -> None:
        super().__init__()
        hidden = out_dim // 2
        self.cv1 = Conv(in_dim, 2 * hidden)
        self.cv2 = Conv((2 + depth) * hidden, out_dim)
        self.m = nn.ModuleList(Bottleneck(hidden, shortcut=shortcut) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.cv1(x).chunk(2, dim=1))
        for bottleneck in self.m:
            parts.append(bottleneck(parts[-1]))
        out: Tensor = self.cv2(torch.cat(parts, dim=1))
        return out


class SPPF(nn.Module):
    """Three 5x5 max-poolings in sequence, concatenated."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.cv1 = Conv(dim, dim // 2)
        self.cv2 = Conv(2 * dim, dim)
        self.m = nn.MaxPool2d(kernel_size=5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.cv1(x)]
        for _ in range(3):
            parts.append(self.m(parts[-1]))
        out: Tensor = self.cv2(torch.cat(parts, dim=1))
        return out


class DFL(nn.Module):
    """Expected distance under a softmax over bins. The values of the bins are in the checkpoint."""

    def __init__(self, reg_max: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(reg_max, 1, kernel_size=1, bias=False)
        bins = torch.arange(reg_max, dtype=torch.float32).reshape(1, reg_max, 1, 1)
        self.conv.weight = nn.Parameter(bins, requires_grad=False)
        self.reg_max = reg_max

    def forward(self, x: Tensor) -> Tensor:
        """Return distances Bx4xN of logits Bx(4*reg_max)xN.

        Distances are to the left, top, right and bottom, in strides.
        """
        b, _, n = x.shape
        bins = x.reshape(b, 4, self.reg_max, n).transpose(1, 2).softmax(1)
        out: Tensor = self.conv(bins).reshape(b, 4, n)
        return out


class Proto(nn.Module):
    """The map at stride 8 to 32 prototypes at stride 4."""

    def __init__(self, in_dim: int, hidden: int) -> None:
        super().__init__()
        self.cv1 = Conv(in_dim, hidden, 3)
        self.upsample = nn.ConvTranspose2d(hidden, hidden, kernel_size=2, stride=2)
        self.cv2 = Conv(hidden, hidden, 3)
        self.cv3 = Conv(hidden, COEFFICIENTS)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.cv3(self.cv2(self.upsample(self.cv1(x))))
        return out


def branch(in_dim: int, hidden: int, out_dim: int) -> nn.Sequential:
    """Return a branch of the head for one stride."""
    return nn.Sequential(
        Conv(in_dim, hidden, 3), Conv(hidden, hidden, 3), nn.Conv2d(hidden, out_dim, 1)
    )


class Segment(nn.Module):
    """Maps at strides 8, 16 and 32 to raw boxes, scores, coefficients, and the prototypes."""

    def __init__(self, dims: tuple[int, int, int], size: YoloSize) -> None:
        super().__init__()
        box = max(16, dims[0] // 4, 4 * size.reg_max)
        score = max(dims[0], min(size.classes, 100))
        mask = max(dims[0] // 4, COEFFICIENTS)
        self.cv2 = nn.ModuleList(branch(d, box, 4 * size.reg_max) for d in dims)
        self.cv3 = nn.ModuleList(branch(d, score, size.classes) for d in dims)
        self.dfl = DFL(size.reg_max)
        self.proto = Proto(dims[0], size.proto)
        self.cv4 = nn.ModuleList(branch(d, mask, COEFFICIENTS) for d in dims)

    def levels(self, maps: list[Tensor]) -> list[Tensor]:
        """Return box bins and class logits of each level, concatenated along the channels."""
        return [torch.cat([self.cv2[i](x), self.cv3[i](x)], dim=1) for i, x in enumerate(maps)]

    def coefficients(self, maps: list[Tensor]) -> Tensor:
        """Return the mask coefficients of all anchors, Bx32xN."""
        return torch.cat([self.cv4[i](x).flatten(2) for i, x in enumerate(maps)], dim=2)


def anchors(maps: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Return centres 2xN (x, y) of the cells of maps (height, width), in cells; and strides 1xN."""
    points, strides = [], []
    for (h, w), stride in zip(maps, STRIDES, strict=True):
        y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
        points.append(torch.stack([x.flatten(), y.flatten()]))
        strides.append(torch.full((1, h * w), float(stride)))
    return torch.cat(points, dim=1), torch.cat(strides, dim=1)


class YoloV8Seg(nn.Module):
    """Image 1x3xHxW (RGB, 0 to 1, sides multiples of 32) to detections and prototypes."""

    def __init__(self, size: YoloSize) -> None:
        super().__init__()
        w0, w1, w2, w3, w4 = size.widths
        d0, d1, d2, d3 = size.depths
        n = size.head_depth
        nothing = nn.Identity  # upsampling and concatenation have an index and no parameters
        self.model = nn.ModuleList(
            [
                Conv(3, w0, 3, 2),
                Conv(w0, w1, 3, 2),
                C2f(w1, w1, d0, shortcut=True),
                Conv(w1, w2, 3, 2),
                C2f(w2, w2, d1, shortcut=True),
                Conv(w2, w3, 3, 2),
                C2f(w3, w3, d2, shortcut=True),
                Conv(w3, w4, 3, 2),
                C2f(w4, w4, d3, shortcut=True),
                SPPF(w4),
                nothing(),
                nothing(),
                C2f(w4 + w3, w3, n, shortcut=False),
                nothing(),
                nothing(),
                C2f(w3 + w2, w2, n, shortcut=False),
                Conv(w2, w2, 3, 2),
                nothing(),
                C2f(w2 + w3, w3, n, shortcut=False),
                Conv(w3, w3, 3, 2),
                nothing(),
                C2f(w3 + w4, w4, n, shortcut=False),
                Segment((w2, w3, w4), size),
            ]
        )

    @property
    def head(self) -> Segment:
        """The last layer."""
        head = self.model[22]
        assert isinstance(head, Segment)
        return head

    def features(self, x: Tensor) -> list[Tensor]:
        """Return feature maps at strides 8, 16 and 32."""
        layers = self.model
        stride8 = layers[4](layers[3](layers[2](layers[1](layers[0](x)))))
        stride16 = layers[6](layers[5](stride8))
        stride32 = layers[9](layers[8](layers[7](stride16)))
        up16 = layers[12](torch.cat([doubled(stride32), stride16], dim=1))
        out8 = layers[15](torch.cat([doubled(up16), stride8], dim=1))
        out16 = layers[18](torch.cat([layers[16](out8), up16], dim=1))
        out32 = layers[21](torch.cat([layers[19](out16), stride32], dim=1))
        return [out8, out16, out32]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Detect all instances.

        Returns:
            Boxes 1xNx4 (x0, y0, x1, y1 in pixels of the input), scores 1xN (0 to 1), mask
            coefficients 1xNx32, prototypes 1x32xH/4xW/4.
        """
        maps = self.features(x)
        centres, strides = anchors([(m.shape[-2], m.shape[-1]) for m in maps])
        return self.decode(maps, centres, strides)

    def decode(
        self, maps: list[Tensor], centres: Tensor, strides: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return detections for feature maps and the anchors of their sizes."""
        head = self.head
        raw = torch.cat([level.flatten(2) for level in head.levels(maps)], dim=2)
        bins = 4 * head.dfl.reg_max
        distances = head.dfl(raw[:, :bins])
        low = (centres - distances[:, :2]) * strides
        high = (centres + distances[:, 2:]) * strides
        boxes = torch.cat([low, high], dim=1).transpose(1, 2)
        scores = torch.sigmoid(raw[:, bins:]).amax(1)
        return boxes, scores, head.coefficients(maps).transpose(1, 2), head.proto(maps[0])


def doubled(x: Tensor) -> Tensor:
    """Return the map at twice the resolution, each cell repeated."""
    return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


class ExportSegmenter(nn.Module):
    """`image` 1x3xHxW (RGB, 0-255, letterboxed) to detections, with constant anchors."""

    centres: Tensor
    strides: Tensor

    def __init__(self, yolo: YoloV8Seg, image_size: Size) -> None:
        super().__init__()
        folded = fold_batch_norms(yolo)
        assert isinstance(folded, YoloV8Seg)
        self.yolo = folded
        height, width = sides(image_size)
        sizes = [(height // s, width // s) for s in STRIDES]
        centres, strides = anchors(sizes)
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("strides", strides, persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        maps = self.yolo.features(image / 255.0)
        return self.yolo.decode(maps, self.centres, self.strides)
