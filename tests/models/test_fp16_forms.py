"""The exact folds: the same numbers in FP32, and right in FP16 where the plain form is not.

FP16 is simulated, also on an accelerator that takes numbers below 6.1e-5 for zero.
"""

from __future__ import annotations

import warnings
from copy import deepcopy

import pytest

pytest.importorskip("torch")
import torch
from torch import Tensor, nn

from benchmarks.fp16_simulation import Arithmetic, simulate
from effsam_export.models.efficientvit import HEAD_DIM, LiteMLA
from effsam_export.models.efficientvit_export import ExportLiteMLA
from effsam_export.models.expedit import (
    Clustering,
    ExportTokenClustering,
    Rebuilding,
    TokenClustering,
)
from effsam_export.models.sam.layers import LayerNorm2d
from effsam_export.models.sam.prompt_encoder import PromptEncoder
from effsam_export.models.sam.scale_folding import (
    MASK_GAIN,
    NECK_DIVISOR,
    fold_mask_gain,
    scale_conv_and_norm,
)
from effsam_export.models.tiny_vit import Attention, TinyViTBlock
from effsam_export.models.tiny_vit_export import (
    LARGE_STAGE_DIVISOR,
    ExportAttention,
    ExportBlock,
    TokenNorm,
)
from effsam_export.precision.select import fp32_program_nodes
from effsam_export.spec.model import KeepFp32

pytestmark = pytest.mark.backend

FLUSH = Arithmetic(flush=True)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fill(module: nn.Module, seed: int = 1) -> nn.Module:
    """A module in eval mode with small random weights, the same at every call."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        for part in module.modules():
            if isinstance(part, (nn.LayerNorm, LayerNorm2d, nn.BatchNorm2d)):
                part.weight.add_(1.0)
    return module.eval()


def in_fp16(
    module: nn.Module, x: Tensor, arithmetic: Arithmetic | None = None, *, keep: str = ""
) -> Tensor:
    """The output of a module in simulated FP16, some modules of it in FP32."""
    with torch.no_grad(), warnings.catch_warnings():
        # torch's own use of its own deprecated class.
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.export.export(module, (x,))
    if keep:
        entry = KeepFp32(component="encoder", modules=(keep,), reason="a test", source="none")
        arithmetic = Arithmetic(keep=fp32_program_nodes(program, (entry,)))
    name = str(program.graph_signature.user_inputs[0])
    (out,) = simulate(program, {name: x}, arithmetic or Arithmetic())
    return out


def in_fp32(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        out: Tensor = module(x)
    return out


def error(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, over the largest number; NaN if there is one."""
    return float((found - wanted).abs().max() / wanted.abs().max())


# ------------------------------------------------------------------ convolution and norm


class Pair(nn.Module):
    """A convolution and a LayerNorm2d."""

    def __init__(self, conv: nn.Conv2d, norm: LayerNorm2d) -> None:
        super().__init__()
        self.conv, self.norm = conv, norm

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(x))
        return out


@pytest.mark.parametrize("factor", [1 / NECK_DIVISOR, MASK_GAIN])
@pytest.mark.parametrize("bias", [False, True])
def test_a_norm_does_not_see_a_power_of_two(factor: float, bias: bool) -> None:
    plain = Pair(nn.Conv2d(3, 8, 1, bias=bias), LayerNorm2d(8))
    fill(plain)
    folded = Pair(*scale_conv_and_norm(plain.conv, plain.norm, factor))
    x = noise(1, 3, 5, 5)

    assert torch.equal(in_fp32(folded, x), in_fp32(plain, x))
    assert torch.equal(in_fp32(folded.conv, x), factor * in_fp32(plain.conv, x))


def test_scaling_does_not_change_the_original_layers() -> None:
    pair = Pair(nn.Conv2d(3, 8, 1), LayerNorm2d(8))
    before = deepcopy(pair.state_dict())

    scale_conv_and_norm(pair.conv, pair.norm, 2.0)

    assert all(torch.equal(before[k], v) for k, v in pair.state_dict().items())
    assert pair.norm.eps == 1e-6


def test_a_convolution_with_large_outputs_is_right_in_fp16_when_divided() -> None:
    plain = Pair(nn.Conv2d(3, 8, 1, bias=False), LayerNorm2d(8))
    fill(plain)
    folded = Pair(*scale_conv_and_norm(plain.conv, plain.norm, 1 / NECK_DIVISOR))
    x = 2000 * noise(1, 3, 5, 5)
    wanted = in_fp32(plain, x)

    assert error(in_fp16(plain, x), wanted) > 0.5
    assert error(in_fp16(folded, x), wanted) < 0.003


def test_a_prompt_without_mask_is_finite_where_small_numbers_are_flushed() -> None:
    encoder = PromptEncoder(8, 4, 64)
    fill(encoder)
    with torch.no_grad():
        # SAM's decoder has biases that vary by 4e-3 in front of its second norm.
        for layer in (encoder.mask_downscaling[0], encoder.mask_downscaling[3]):
            assert isinstance(layer, nn.Conv2d)
            assert layer.bias is not None
            layer.bias.mul_(0.02)
        first = encoder.mask_downscaling[1]
        assert isinstance(first, LayerNorm2d)
        first.weight.mul_(0.01)
        first.bias.mul_(0.01)
    folded = fold_mask_gain(encoder)
    x = torch.zeros(1, 1, 16, 16)
    wanted = in_fp32(encoder.mask_downscaling, x)

    assert torch.equal(in_fp32(folded.mask_downscaling, x), wanted)
    assert in_fp16(encoder.mask_downscaling, x, FLUSH).isnan().any()
    assert error(in_fp16(folded.mask_downscaling, x, FLUSH), wanted) < 0.02


# ------------------------------------------------------------------ TinyViT


def block() -> TinyViTBlock:
    made = TinyViTBlock(8, 2, 4)
    fill(made)
    return made


@pytest.mark.parametrize("divisor", [1.0, LARGE_STAGE_DIVISOR])
@pytest.mark.parametrize("side", [4, 6], ids=["one window", "filled up"])
def test_tiny_vits_export_block_computes_the_same(side: int, divisor: float) -> None:
    plain = block()
    x = noise(1, 8, side, side)

    assert torch.allclose(in_fp32(ExportBlock(plain, divisor), x), in_fp32(plain, x), atol=2e-6)


def test_padded_windows_are_finite_where_small_numbers_are_flushed() -> None:
    plain = block()
    x = noise(1, 8, 6, 6)
    wanted = in_fp32(plain, x)

    assert in_fp16(plain, x, FLUSH).isnan().any()
    assert error(in_fp16(ExportBlock(plain, 1.0), x, FLUSH), wanted) < 0.005


def test_large_tokens_are_right_in_fp16_when_divided() -> None:
    norm = nn.LayerNorm(8)
    fill(norm)
    with torch.no_grad():
        norm.bias.zero_()
    x = 300 * noise(2, 5, 8)
    wanted = in_fp32(norm, x)

    assert torch.allclose(in_fp32(TokenNorm(norm, LARGE_STAGE_DIVISOR), x), wanted, atol=1e-6)
    assert error(in_fp16(norm, x), wanted) > 0.5
    assert error(in_fp16(TokenNorm(norm, LARGE_STAGE_DIVISOR), x), wanted) < 0.003


def test_the_attention_keeps_its_own_norm_and_weights() -> None:
    attention = Attention(8, 2, 4)
    fill(attention)
    before = deepcopy(attention.state_dict())

    twin = ExportAttention(attention)

    assert isinstance(attention.norm, nn.LayerNorm)
    assert twin.proj is attention.proj
    assert all(torch.equal(before[k], v) for k, v in attention.state_dict().items())


def test_the_places_of_attention_biases_take_four_bytes_each() -> None:
    attention = Attention(8, 2, 14)
    fill(attention)

    twin = ExportAttention(attention)

    assert twin.attention_bias_idxs.dtype == torch.int32
    assert torch.equal(twin.bias(), attention.bias())


# ------------------------------------------------------------------ linear attention


def attention() -> LiteMLA:
    made = LiteMLA(2 * HEAD_DIM, 3)
    fill(made)
    return made


def test_folded_linear_attention_is_equal_to_the_bit() -> None:
    plain = attention()
    x = noise(1, 2 * HEAD_DIM, 8, 8)

    assert torch.equal(in_fp32(ExportLiteMLA(plain), x), in_fp32(plain, x))


def test_the_plain_attention_keeps_its_weights() -> None:
    plain = attention()
    before = deepcopy(plain.state_dict())

    ExportLiteMLA(plain)

    assert all(torch.equal(before[k], v) for k, v in plain.state_dict().items())


def test_sums_over_all_tokens_pass_the_end_of_fp16_without_the_fold() -> None:
    plain = attention()
    x = 8 * noise(1, 2 * HEAD_DIM, 16, 16)
    wanted = in_fp32(plain, x)

    assert not in_fp16(plain, x).isfinite().all()
    assert error(in_fp16(ExportLiteMLA(plain), x), wanted) < 0.02


def test_a_denominator_of_zero_gives_a_finite_result() -> None:
    plain = attention()
    x = torch.zeros(1, 2 * HEAD_DIM, 4, 4)
    wanted = in_fp32(plain, x)

    assert in_fp16(plain, x).isnan().all()
    assert torch.allclose(in_fp16(ExportLiteMLA(plain), x), wanted, atol=1e-3)
    assert torch.allclose(in_fp16(ExportLiteMLA(plain), x, FLUSH), wanted, atol=1e-3)


# ------------------------------------------------------------------ clustering


RULE = Clustering(location=0, clusters=100, iterations=5, temperature=0.005, window=5, k=20)


class Clustered(nn.Module):
    """Tokens clustered and rebuilt, as Expedit-SAM does around its later blocks."""

    def __init__(self, clustering: TokenClustering) -> None:
        super().__init__()
        self.clustering = clustering
        self.rebuilding = Rebuilding(RULE)

    def forward(self, windows: Tensor) -> Tensor:
        centres = self.clustering(windows)
        out: Tensor = self.rebuilding(windows.flatten(1, 2), centres, centres)
        return out


def tokens(size: float) -> Tensor:
    """A window of tokens that change smoothly, with noise, as those of a ViT."""
    coarse = nn.functional.interpolate(noise(1, 768, 4, 4), size=(14, 14), mode="bilinear")
    return size * (coarse.permute(0, 2, 3, 1) + 0.5 * noise(1, 14, 14, 768, seed=2))


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_closed_pairs_have_zero_weight_and_fit_into_fp16(scale: float) -> None:
    export, plain = ExportTokenClustering(RULE), TokenClustering(RULE)
    distances = scale * noise(1, 100, 196).square()

    assert float(export.closed.max()) == 3e4
    share = export.logits(distances).softmax(1)
    assert torch.equal(share, plain.logits(distances).softmax(1))
    assert (share[0, export.closed > 0] == 0).all()


def test_the_divisor_of_a_centre_is_the_same_in_fp32() -> None:
    export, plain = ExportTokenClustering(RULE), TokenClustering(RULE)
    totals = torch.tensor([0.0, 1e-30, 1e-16, 1e-8, 3.0])

    assert torch.equal(export.divisor(totals), plain.divisor(totals))


def test_distances_in_fp16_change_the_clusters() -> None:
    form, x = Clustered(ExportTokenClustering(RULE)).eval(), tokens(3.0)
    wanted = in_fp32(Clustered(TokenClustering(RULE)), x)

    assert error(in_fp16(form, x), wanted) > 0.05
    assert error(in_fp16(form, x, keep="clustering"), wanted) > 0.005
    assert error(in_fp16(form, x, keep="*ing"), wanted) < 1e-3


def test_large_tokens_are_nan_in_fp16_and_right_with_the_recipe() -> None:
    form, x = Clustered(ExportTokenClustering(RULE)).eval(), tokens(10.0)
    wanted = in_fp32(Clustered(TokenClustering(RULE)), x)

    assert in_fp16(form, x).isnan().all()
    assert error(in_fp16(form, x, keep="*ing"), wanted) < 1e-3
