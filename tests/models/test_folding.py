"""Batch norms folded away, and those that must stay."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from effsam_export.models.folding import fold_batch_norms

pytestmark = pytest.mark.backend


def settled(module: nn.Module) -> nn.Module:
    """In eval mode, with statistics that are not the identity's."""
    generator = torch.Generator().manual_seed(0)
    for m in module.modules():
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) and m.running_mean is not None:
            assert m.running_var is not None
            m.running_mean.normal_(generator=generator)
            m.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.normal_(m.weight, 1, 0.2, generator=generator)
            nn.init.normal_(m.bias, 0, 0.2, generator=generator)
    return module.eval()


def norms(module: nn.Module) -> int:
    return sum(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in module.modules())


CONVS = nn.Sequential(
    nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.GELU()),
    nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8, eps=1e-3)),
)


@torch.inference_mode()
def test_same_numbers_without_batch_norms() -> None:
    module = settled(CONVS)
    folded = fold_batch_norms(module)
    x = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    assert (norms(module), norms(folded)) == (2, 0)
    torch.testing.assert_close(folded(x), module(x), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_a_linear_layer_takes_its_norm_too() -> None:
    module = settled(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)))
    folded = fold_batch_norms(module)
    x = torch.randn(7, 4, generator=torch.Generator().manual_seed(1))
    assert norms(folded) == 0
    torch.testing.assert_close(folded(x), module(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.GELU(), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(4, 8, 1), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
        nn.Sequential(nn.ConvTranspose2d(4, 4, 1), nn.BatchNorm2d(4)),
    ],
    ids=["in front", "behind an activation", "other width", "no statistics", "transposed"],
)
def test_what_cannot_be_folded_is_left(module: nn.Module) -> None:
    assert norms(fold_batch_norms(settled(module))) == 1


def test_the_module_stays_as_it_is() -> None:
    module = settled(nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)))
    before = {k: v.clone() for k, v in module.state_dict().items()}
    fold_batch_norms(module)
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k], before[k]) for k in before)


def test_parameters_that_are_not_folded_are_shared() -> None:
    module = settled(nn.Sequential(CONVS, nn.Linear(8, 2)))
    folded = fold_batch_norms(module)
    assert folded.get_submodule("1").weight is module.get_submodule("1").weight
