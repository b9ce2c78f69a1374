"""RepViT's shape: widths, strides, squeeze-excite, and the two ways to a 64x64 map.

Its numbers are compared with the authors' in `test_sam_family.py`, its export form in
`test_reparam.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from effsam_export import models
from effsam_export.errors import EffsamError
from effsam_export.models.repvit import (
    M1_FUSED,
    M2_3,
    RepVGGDW,
    RepViT,
    RepViTBlock,
    RepViTSize,
    SqueezeExcite,
    UpsampledConv,
    stage,
)
from effsam_export.weights.identify import identify
from tests import golden_weights

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.backend

VARIANTS = {"edge_sam": "edge-sam", "repvit": "repvit-sam"}
every = pytest.mark.parametrize("variant", VARIANTS)
SIZES = {"edge_sam": M1_FUSED, "repvit": M2_3}


def entries(variant: str) -> list[list[Any]]:
    """Name, shape and dtype of every tensor of the authors' model."""
    found: list[list[Any]] = golden_weights.load(variant).manifest["entries"]
    return [entry[:3] for entry in found]


def own_entries(module: nn.Module) -> list[list[Any]]:
    return [
        [name, list(value.shape), str(value.dtype).removeprefix("torch.")]
        for name, value in module.state_dict().items()
    ]


def strides(encoder: RepViT) -> list[int]:
    """Resolution of the image over that of the map, behind the stem and behind each block."""
    found, stride = [], 1
    for block in encoder.features:
        for conv in (m for m in block.modules() if isinstance(m, nn.Conv2d)):
            stride *= conv.stride[0]
        found.append(stride)
    return found


# ------------------------------------------------------------------ names


@every
def test_state_dict_has_the_names_shapes_and_order_of_the_authors(variant: str) -> None:
    assert own_entries(models.get(VARIANTS[variant]).build()) == entries(variant)


@every
def test_number_of_parameters(variant: str) -> None:
    module = models.get(VARIANTS[variant]).build()
    wanted = golden_weights.load(variant).manifest["n_params"]
    assert sum(p.numel() for p in module.parameters()) == wanted


@pytest.mark.shared
@every
def test_number_of_parameters_of_the_encoder(variant: str, shared: Path) -> None:
    manifest = golden_weights.load(variant, shared / "golden").manifest
    found = sum(p.numel() for p in RepViT(SIZES[variant]).parameters())
    assert found == manifest["n_params_encoder"]


def test_edge_sam_3x_is_the_same_module() -> None:
    assert own_entries(models.get("edge-sam-3x").build()) == entries("edge_sam")


@pytest.mark.parametrize(
    ("variant", "name"), [("edge_sam", "an EdgeSAM"), ("repvit", "a RepViT-SAM")]
)
def test_state_dict_is_recognised(variant: str, name: str) -> None:
    found = identify(models.get(VARIANTS[variant]).build().state_dict())
    assert found is not None
    assert found.title == name


@pytest.mark.parametrize(("asked", "given"), [("edge-sam", "repvit"), ("repvit-sam", "edge_sam")])
def test_weights_of_the_other_are_refused(asked: str, given: str, tmp_path: Path) -> None:
    from effsam_export.weights import own_file
    from effsam_export.weights.checkpoint import load

    path = tmp_path / "weights.pt"
    torch.save(models.get(VARIANTS[given]).build().state_dict(), path)
    name = {"repvit": "a RepViT-SAM", "edge_sam": "an EdgeSAM"}[given]
    with pytest.raises(EffsamError, match=name):
        load(models.get(asked), own_file.checkpoint_from_file(path, None))


# ------------------------------------------------------------------ blocks


@pytest.mark.parametrize(
    ("dim", "hidden"),
    [(48, 16), (80, 24), (96, 24), (160, 40), (192, 48), (320, 80), (384, 96), (8, 8), (112, 32)],
)
def test_squeeze_is_to_the_nearest_multiple_of_8(dim: int, hidden: int) -> None:
    """48 / 4 is 12, half-way: up. 80 / 4 is 20: up. Never below 8."""
    assert SqueezeExcite(dim).fc1.out_channels == hidden


def test_squeeze_width_has_no_ninety_percent_rule() -> None:
    """A quarter of 76 is 19; to 16 are more than 10 % lost, where the usual rule would take 24."""
    assert SqueezeExcite(76).fc1.out_channels == 16


@pytest.mark.parametrize("depth", [1, 2, 3, 7, 15, 35])
def test_every_second_block_but_the_last_has_squeeze_excite(depth: int) -> None:
    blocks = stage(16, depth, outer_norm=True)
    with_gate = [
        i
        for i, b in enumerate(blocks)
        if isinstance(b.token_mixer.get_submodule("1"), SqueezeExcite)
    ]
    assert len(blocks) == depth
    assert with_gate == [i for i in range(0, depth, 2) if i != depth - 1]


@every
def test_features_are_a_stem_and_blocks(variant: str) -> None:
    size = SIZES[variant]
    features = RepViT(size).features
    assert len(features) == 1 + sum(size.depths) + 3
    assert all(isinstance(block, RepViTBlock) for block in features[1:])
    depthwise = [m for m in features.modules() if isinstance(m, RepVGGDW)]
    assert len(depthwise) == sum(size.depths)


def test_repvit_sam_keeps_the_resolution_in_its_last_stage() -> None:
    assert strides(RepViT(M2_3)) == [4] * 8 + [8] * 8 + [16] * (36 + 3)


def test_edge_sam_halves_it_and_fuses_two_stages() -> None:
    encoder = RepViT(M1_FUSED)
    assert strides(encoder) == [4] * 4 + [8] * 4 + [16] * 16 + [32] * 3
    assert encoder.third_stage_end == 23
    third = encoder.features[encoder.third_stage_end]
    assert third.get_parameter("channel_mixer.m.2.c.weight").shape[0] == 192
    assert encoder.fuse_stage2.in_channels == 192


def test_repvit_sam_has_nothing_to_fuse() -> None:
    names = RepViT(M2_3).state_dict()
    assert not [name for name in names if name.startswith("fuse")]


@pytest.mark.parametrize("fuse", [True, False])
def test_embedding_is_a_sixteenth_of_the_image(fuse: bool) -> None:
    size = RepViTSize(widths=(8, 16, 24, 32), depths=(1, 1, 1, 1), outer_norm=fuse, fuse=fuse)
    with torch.inference_mode():
        assert RepViT(size).eval()(torch.zeros(1, 3, 64, 96)).shape == (1, 256, 4, 6)


# ------------------------------------------------------------------ bicubic


def cubic_matrix(n: int) -> torch.Tensor:
    """Twice the resolution by Keys' kernel with a = -0.75, half-pixel centres, repeated borders.

    Written from the kernel's definition, 2n x n in float64.
    """

    def kernel(t: float) -> float:
        t = abs(t)
        if t <= 1:
            return 1.25 * t**3 - 2.25 * t**2 + 1
        return -0.75 * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0

    matrix = torch.zeros(2 * n, n, dtype=torch.float64)
    for i in range(2 * n):
        centre = (i + 0.5) / 2 - 0.5
        for j in range(int(centre // 1) - 1, int(centre // 1) + 3):
            matrix[i, min(max(j, 0), n - 1)] += kernel(centre - j)
    return matrix


def test_upsampling_is_bicubic() -> None:
    layer = UpsampledConv(3, 5).double().eval()
    x = torch.from_numpy(golden_weights.generator(1).standard_normal((2, 3, 6, 8)))
    with torch.inference_mode():
        wanted = cubic_matrix(6) @ layer.op_list[0](x) @ cubic_matrix(8).T
        assert (layer(x) - wanted).abs().max() < 1e-12
