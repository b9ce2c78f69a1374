"""Upscaling as linear layers on tokens: the numbers of the authors' transposed convolutions."""

from __future__ import annotations

from copy import deepcopy

import pytest

pytest.importorskip("torch")
import torch
from torch import Tensor, nn

from effsam_export.models.sam.layers import LayerNorm2d
from effsam_export.models.sam.mask_decoder import MaskDecoder
from effsam_export.models.sam.token_upscaling import (
    TokenMaskDecoder,
    TokenNorm2d,
    TokenUpscaling,
    as_linear,
    to_planes,
)

pytestmark = pytest.mark.backend

GRID = (3, 5)
NOISE = 1e-5


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def decoder() -> MaskDecoder:
    """A decoder of 32 channels, whose norms have weights of their own."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(1)
        made = MaskDecoder(32)
        for module in made.modules():
            if isinstance(module, LayerNorm2d):
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return made.eval()


def doubled(conv: nn.ConvTranspose2d, x: Tensor, *, by_columns: bool) -> Tensor:
    """The convolution of feature maps 1xCxHxW by its linear layer."""
    h, w = x.shape[-2:]
    pixels: Tensor = as_linear(conv, by_columns=by_columns)(x.permute(0, 2, 3, 1))
    blocks = pixels.reshape(1, h, w, 2, 2, -1)
    order = (0, 5, 1, 4, 2, 3) if by_columns else (0, 5, 1, 3, 2, 4)
    return blocks.permute(order).reshape(1, -1, 2 * h, 2 * w)


@pytest.mark.parametrize("by_columns", [False, True])
def test_a_linear_layer_is_the_transposed_convolution(by_columns: bool) -> None:
    conv = nn.ConvTranspose2d(6, 3, kernel_size=2, stride=2)
    x = noise(1, 6, *GRID)
    with torch.inference_mode():
        found, wanted = doubled(conv, x, by_columns=by_columns), conv(x)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "other",
    [
        {"kernel_size": 3, "stride": 2},
        {"kernel_size": 2, "stride": 1},
        {"kernel_size": 2, "stride": 2, "padding": 1},
        {"kernel_size": 2, "stride": 2, "output_padding": 1},
        {"kernel_size": 2, "stride": 2, "groups": 2},
        {"kernel_size": 2, "stride": 2, "bias": False},
    ],
    ids=lambda o: "-".join(o),
)
def test_another_transposed_convolution_is_refused(other: dict[str, int]) -> None:
    with pytest.raises(AssertionError):
        as_linear(nn.ConvTranspose2d(4, 4, **other), by_columns=False)  # type: ignore[arg-type]


def test_upscaled_channels_are_those_of_the_authors() -> None:
    """One channel after the other takes the way of a mask."""
    first, norm, act, second, last = decoder().output_upscaling
    assert isinstance(norm, LayerNorm2d)
    form = TokenUpscaling(first, TokenNorm2d(norm), act, second, last)
    x = noise(2, 32, *GRID)
    with torch.inference_mode():
        tokens = form(x.flatten(2).transpose(1, 2))
        found = to_planes(tokens.transpose(1, 2), GRID)
        wanted = nn.Sequential(first, norm, act, second, last)(x)
    assert found.shape == (2, 4, 12, 20)
    torch.testing.assert_close(found, wanted, atol=NOISE, rtol=0)


@pytest.mark.parametrize("prompts", [1, 3])
def test_masks_and_scores_are_those_of_the_authors(prompts: int) -> None:
    plain = decoder()
    form = TokenMaskDecoder(plain)
    hs, src = noise(prompts, 7, 32), noise(prompts, GRID[0] * GRID[1], 32, seed=1)
    with torch.inference_mode():
        masks, scores = form.heads(hs, src, GRID)
        wanted, wanted_scores = plain.heads(hs, src, GRID)
    torch.testing.assert_close(masks, wanted, atol=NOISE * float(wanted.abs().max()), rtol=0)
    assert torch.equal(scores, wanted_scores)


def test_layers_have_the_authors_names_and_the_decoder_is_unchanged() -> None:
    plain = decoder()
    before = deepcopy(plain.state_dict())

    form = TokenMaskDecoder(plain)

    assert [name for name, _ in form.named_modules()] == [n for n, _ in plain.named_modules()]
    assert all(torch.equal(before[k], v) for k, v in plain.state_dict().items())
    assert {type(m) for m in form.output_upscaling} == {nn.Linear, TokenNorm2d, nn.GELU}
