"""RepViT's branches as one convolution: the same numbers, and nothing borrowed is changed."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from effsam_export.models.repvit import (
    RepVGGDW,
    RepViT,
    RepViTSize,
    SqueezeExcite,
    SqueezeExciteByRows,
    export_form,
)
from tests.golden_weights import fill, generator

pytestmark = pytest.mark.backend

DIM = 12
SMALL = {
    "repvit": RepViTSize(widths=(8, 16, 24, 32), depths=(3, 3, 5, 2), outer_norm=True, fuse=False),
    "edge": RepViTSize(widths=(8, 16, 24, 32), depths=(3, 3, 5, 2), outer_norm=False, fuse=True),
}
EXACT = 1e-12
"""Float64 leaves 1e-15 for each operation; a wrong term costs 1e-3."""

outer = pytest.mark.parametrize("outer_norm", [True, False], ids=["repvit", "edge"])
both = pytest.mark.parametrize("name", SMALL)


def filled(module: nn.Module) -> nn.Module:
    """The module in float64 and eval mode; every tensor from its name, batch norms included."""
    state = {
        name: torch.from_numpy(fill(name, value.shape)) if value.is_floating_point() else value
        for name, value in module.state_dict().items()
    }
    module.load_state_dict(state, strict=True)
    return module.double().eval()


def noise(*shape: int) -> torch.Tensor:
    return torch.from_numpy(generator(2).standard_normal(shape))


def branches(*, outer_norm: bool) -> RepVGGDW:
    module = filled(RepVGGDW(DIM, outer_norm=outer_norm))
    assert isinstance(module, RepVGGDW)
    return module


def encoder(name: str) -> RepViT:
    module = filled(RepViT(SMALL[name]))
    assert isinstance(module, RepViT)
    return module


def copied(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_unchanged(module: nn.Module, before: dict[str, torch.Tensor]) -> None:
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(before[name], value) for name, value in after.items())


# ------------------------------------------------------------------ three branches


@outer
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (9, 9)], ids=str)
def test_merged_branches(outer_norm: bool, size: tuple[int, int]) -> None:
    """On maps so small that all is border, where the 3x3 branch sees zeros and the others not."""
    module, x = branches(outer_norm=outer_norm), noise(2, DIM, *size)
    with torch.inference_mode():
        assert (module.merged()(x) - module(x)).abs().max() < EXACT


@outer
def test_merged_is_one_depthwise_convolution(outer_norm: bool) -> None:
    merged = branches(outer_norm=outer_norm).merged()
    assert isinstance(merged, nn.Conv2d)
    assert merged.groups == DIM
    assert merged.weight.shape == (DIM, 1, 3, 3)
    assert merged.padding == (1, 1)
    assert merged.stride == (1, 1)
    assert merged.bias is not None


@outer
def test_merging_does_not_change_the_branches(outer_norm: bool) -> None:
    module = branches(outer_norm=outer_norm)
    before = copied(module)
    module.merged()
    assert_unchanged(module, before)


def test_the_identity_is_a_one_in_the_centre_of_the_kernel() -> None:
    module = branches(outer_norm=False)
    with torch.no_grad():
        for conv in (m for m in module.modules() if isinstance(m, nn.Conv2d)):
            conv.weight.zero_()
    kernel = torch.zeros(DIM, 1, 3, 3, dtype=torch.float64)
    kernel[:, :, 1, 1] = 1
    assert torch.equal(module.merged().weight, kernel)


def test_outer_norm_scales_the_identity_too() -> None:
    module = branches(outer_norm=True)
    bn = module.bn
    assert isinstance(bn, nn.BatchNorm2d)
    assert bn.running_var is not None
    with torch.no_grad():
        for conv in (m for m in module.modules() if isinstance(m, nn.Conv2d)):
            conv.weight.zero_()
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    assert torch.allclose(module.merged().weight[:, 0, 1, 1], scale, rtol=0, atol=EXACT)


def test_the_two_repositories_differ() -> None:
    """RepViT-SAM's 1x1 branch has a bias and no norm, EdgeSAM's a norm and no bias."""
    names = {norm: set(RepVGGDW(DIM, outer_norm=norm).state_dict()) for norm in (True, False)}
    assert {"conv1.weight", "conv1.bias", "bn.running_mean"} <= names[True] - names[False]
    assert {"conv1.c.weight", "conv1.bn.running_mean"} <= names[False] - names[True]


@pytest.mark.parametrize("part", ["conv", "conv1"])
def test_a_branch_other_than_convolution_and_norm_is_refused(part: str) -> None:
    module = branches(outer_norm=False)
    setattr(module, part, nn.Sequential(nn.Conv2d(DIM, DIM, kernel_size=1)))
    with pytest.raises(AttributeError, match="has no attribute `c`"):
        module.merged()


# ------------------------------------------------------------------ squeeze-excite


def test_mean_by_rows_is_the_mean() -> None:
    gate, x = filled(SqueezeExcite(DIM)), noise(1, DIM, 16, 24)
    assert isinstance(gate, SqueezeExcite)
    with torch.inference_mode():
        assert (SqueezeExciteByRows(gate)(x) - gate(x)).abs().max() < EXACT


def test_mean_by_rows_borrows_the_layers() -> None:
    gate = SqueezeExcite(DIM)
    rows = SqueezeExciteByRows(gate)
    assert rows.fc1 is gate.fc1
    assert rows.fc2 is gate.fc2


def test_sums_by_rows_fit_into_fp16() -> None:
    """A channel of 2s has a sum of 131072 on a 256x256 map, and 512 in a row."""
    x = np.full((1, 1, 256, 256), 2, dtype=np.float16)
    with np.errstate(over="ignore"):
        assert np.isinf(x.sum(dtype=np.float16))
    assert x.sum(3, dtype=np.float16).max() == 512


# ------------------------------------------------------------------ a whole encoder


@both
def test_export_form_gives_the_same_numbers(name: str) -> None:
    module, x = encoder(name), noise(1, 3, 64, 96)
    with torch.inference_mode():
        wanted, found = module(x), export_form(module).eval()(x)
    assert wanted.shape == (1, 256, 4, 6)
    assert (found - wanted).abs().max() < 1e3 * EXACT


@both
def test_export_form_has_no_norm_branch_or_long_sum(name: str) -> None:
    form = export_form(encoder(name))
    left = (nn.BatchNorm2d, RepVGGDW, SqueezeExcite)
    assert not [type(m) for m in form.modules() if isinstance(m, left)]


@both
def test_export_form_does_not_change_the_encoder(name: str) -> None:
    module = encoder(name)
    before, kinds = copied(module), [type(m) for m in module.modules()]
    form = export_form(module)
    assert_unchanged(module, before)
    assert [type(m) for m in module.modules()] == kinds
    assert form is not module
    assert form.get_submodule("neck.0") is not None
    assert form.get_parameter("neck.0.weight") is module.get_parameter("neck.0.weight")


@both
def test_export_form_follows_weights_loaded_later(name: str) -> None:
    """Nothing of an earlier export form is kept by the encoder."""
    module, x = encoder(name), noise(1, 3, 32, 32)
    export_form(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.01)
    with torch.inference_mode():
        assert (export_form(module).eval()(x) - module(x)).abs().max() < 1e3 * EXACT
