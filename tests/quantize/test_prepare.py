"""A component made ready for INT8: what changes, what stays, and that the model does not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from torch import Tensor, nn

from effsam_export.errors import CheckFailed
from effsam_export.quantize import prepare
from effsam_export.spec.int8 import Equalization, Int8Recipe, LayerOverride, Quantization
from effsam_export.spec.model import ComponentSpec
from effsam_export.spec.tensors import TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 8
SPEC = ComponentSpec(
    name="encoder",
    inputs=(TensorSpec(name="image", shape=(1, 3, SIZE, SIZE)),),
    outputs=(TensorSpec(name="image_embeddings", shape=(1, 16, 12)),),
    wrap=lambda module: module,
    example=dict,
    feeds=lambda *_: {},
    reference=lambda *_: {},
)


class Net(nn.Module):
    """A convolution, a depthwise one, a norm and two linear layers, one of them unused."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.block = nn.ModuleDict({"norm": nn.LayerNorm(16), "fc": nn.Linear(16, 12)})
        self.head = nn.Linear(12, 100)
        for parameter in self.block["norm"].parameters():
            nn.init.normal_(parameter)

    def forward(self, image: Tensor) -> Tensor:
        x = self.deep(self.stem(image)).flatten(2).transpose(1, 2)
        done: Tensor = self.block["fc"](self.block["norm"](x))
        return done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(3)
    for i in range(3):
        image = generator.normal(size=(1, 3, SIZE, SIZE)).astype(np.float32)
        np.savez(tmp_path / f"{i:04}.npz", image=image)
    return tmp_path


def recipe(*floating: str, **more: object) -> Int8Recipe:
    kept = LayerOverride(modules=floating, treatment="keep_float", reason="a test")
    start = Int8Recipe(scheme="w8a8", overrides=(kept,) if floating else ())
    return replace(start, **{"rounding": "coordinate-descent", **more})  # type: ignore[arg-type]


def changed(module: nn.Module, ready: nn.Module) -> set[str]:
    """Names of the parameters that are others now."""
    now = dict(ready.named_parameters())
    return {n for n, p in module.named_parameters() if not torch.equal(p, now[n])}


def made(asked: Int8Recipe, folder: Path, module: nn.Module) -> nn.Module:
    ready = prepare.prepare_component(SPEC, module, Quantization(recipe=asked, samples=folder))
    assert replace(ready, wrap=SPEC.wrap) == SPEC
    return ready.wrap(nn.Identity())


def test_layers_that_become_int8_are_rounded_in_a_copy(folder: Path) -> None:
    module = Net().eval()
    before = {n: p.clone() for n, p in module.named_parameters()}
    ready = made(recipe(), folder, module)
    assert changed(module, ready) == {"stem.weight", "block.fc.weight"}
    assert all(torch.equal(p, before[n]) for n, p in module.named_parameters())
    step = module.stem.weight.flatten(1).abs().amax(1).view(-1, 1, 1, 1) / 127
    rounded = ready.get_submodule("stem").weight
    assert isinstance(rounded, Tensor)
    torch.testing.assert_close(rounded / step, (rounded / step).round(), atol=1e-3, rtol=0)


def test_layers_kept_in_float_are_not_rounded(folder: Path) -> None:
    module = Net().eval()
    assert changed(module, made(recipe("stem"), folder, module)) == {"block.fc.weight"}
    assert changed(module, made(recipe("block"), folder, module)) == {"stem.weight"}


def test_equalizing_without_rounding_does_not_change_the_output(folder: Path) -> None:
    module = Net().eval()
    pair = Equalization(norm="norm", layer="fc", alpha=0.7)
    ready = made(recipe(rounding="nearest", equalize=(pair,)), folder, module)
    of_both = {f"block.{layer}.{what}" for layer in ("norm", "fc") for what in ("weight", "bias")}
    assert changed(module, ready) == of_both
    image = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(ready(image), module(image), atol=1e-4, rtol=1e-4)


def test_it_repeats_to_the_bit(folder: Path) -> None:
    pair = Equalization(norm="norm", layer="fc", alpha=0.7)
    first, again = (made(recipe(equalize=(pair,)), folder, Net().eval()) for _ in range(2))
    assert not changed(first, again)


def test_pairs_that_the_model_lacks_are_refused(folder: Path) -> None:
    pair = Equalization(norm="norm", layer="fc7", alpha=0.7)
    with pytest.raises(CheckFailed, match="no block has `norm` and `fc7`"):
        made(recipe(equalize=(pair,)), folder, Net().eval())


@pytest.mark.parametrize(
    ("asked", "prepares_weights"),
    [
        (Int8Recipe(scheme="w8a8"), False),
        (Int8Recipe(scheme="weight_only", rounding="coordinate-descent"), True),
        (Int8Recipe(scheme="fp16", rounding="coordinate-descent"), False),
        (
            Int8Recipe(scheme="w8a8", equalize=(Equalization(norm="a", layer="b", alpha=0),)),
            True,
        ),
    ],
)
def test_only_some_recipes_prepare_anything(asked: Int8Recipe, prepares_weights: bool) -> None:
    assert asked.prepares_weights is prepares_weights
