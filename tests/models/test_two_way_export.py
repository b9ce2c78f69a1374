"""The reordered transformer: the numbers of the authors', for any tokens, prompts and masks."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
import torch
from torch import Tensor, nn

from effsam_export.models.sam.slots import CLOSED
from effsam_export.models.sam.transformer import TwoWayTransformer
from effsam_export.models.sam.two_way_export import ExportTransformer, MaskTerm

pytestmark = pytest.mark.backend

DIM = 32
GRID = (3, 5)
NOISE = 1e-10
"""In FP64, the largest difference of two orders of the same products."""


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def plain() -> TwoWayTransformer:
    """The authors' transformer, narrow, in FP64; all its parameters are random."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(2)
        made = TwoWayTransformer(depth=2, dim=DIM, num_heads=8, mlp_dim=64).double()
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.3)
    return made.eval()


def assert_same(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> None:
    """Tokens and image tokens."""
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=NOISE, rtol=0)


@pytest.mark.parametrize("prompts", [1, 3])
@pytest.mark.parametrize("tokens", [6, 7, 20])
def test_tokens_and_image_are_those_of_the_authors(
    plain: TwoWayTransformer, prompts: int, tokens: int
) -> None:
    given = noise(prompts, DIM, *GRID), noise(1, DIM, *GRID, seed=1), noise(prompts, tokens, DIM)
    with torch.inference_mode():
        assert_same(ExportTransformer(plain)(*given), plain(*given))


@pytest.mark.parametrize("prompts", [1, 3])
@pytest.mark.parametrize("tokens", [6, 20])
def test_what_masks_add_may_be_given_apart(
    plain: TwoWayTransformer, prompts: int, tokens: int
) -> None:
    term = MaskTerm(features=noise(prompts, 15, 4), weights=noise(4, DIM, seed=1))
    image, positions, of_prompts = (
        noise(1, DIM, *GRID),
        noise(1, DIM, *GRID, seed=1),
        noise(prompts, tokens, DIM),
    )
    dense = (term.features @ term.weights).transpose(1, 2).reshape(prompts, DIM, *GRID)
    with torch.inference_mode():
        found = ExportTransformer(plain)(image, positions, of_prompts, masks=term)
        assert_same(found, plain(image + dense, positions, of_prompts))


@pytest.mark.parametrize("apart", [False, True])
def test_closed_tokens_do_not_matter(plain: TwoWayTransformer, apart: bool) -> None:
    image, positions = noise(1, DIM, *GRID), noise(1, DIM, *GRID, seed=1)
    tokens, extra = noise(2, 7, DIM), noise(2, 2, DIM, seed=3)
    closed = torch.zeros(2, 1, 1, 9, dtype=torch.float64)
    closed[..., 7:] = CLOSED
    term = MaskTerm(features=noise(2, 15, 4), weights=torch.zeros(4, DIM, dtype=torch.float64))
    with torch.inference_mode():
        found = ExportTransformer(plain)(
            image if apart else image.expand(2, -1, -1, -1),
            positions,
            torch.cat([tokens, extra], dim=1),
            closed,
            term if apart else None,
        )
        wanted = plain(image.expand(2, -1, -1, -1), positions, tokens)
    assert_same((found[0][:, :7], found[1]), wanted)


def test_modules_have_the_authors_names_and_weights(plain: TwoWayTransformer) -> None:
    form = ExportTransformer(plain)

    assert [name for name, _ in form.named_modules()] == [n for n, _ in plain.named_modules()]
    own = dict(plain.named_parameters())
    assert all(p is own[name] for name, p in form.named_parameters())
