"""Channels moved from activations into weights and biases: the same outputs, or a refusal."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
import torch
from torch import Tensor, nn

from effsam_export.errors import CheckFailed
from effsam_export.quantize import equalize
from effsam_export.spec.int8 import Equalization

WIDTH = 16


class Mlp(nn.Module):
    """A norm with loud channels in front of a linear layer."""

    def __init__(self, *, leaks: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
        self.leaks = leaks

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        done: Tensor = self.fc2(self.fc1(y).relu())
        return done + y if self.leaks else done


class Net(nn.Module):
    """Two blocks, one of them deeper down, and a norm that belongs to no pair."""

    def __init__(self, *, leaks: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = Mlp()
        self.stage = nn.Sequential(Mlp(leaks=leaks))
        self.norm = nn.LayerNorm(WIDTH)
        with torch.no_grad():
            for block in (self.first, self.stage[0]):
                assert isinstance(block, Mlp)
                block.norm.weight.copy_(torch.logspace(-1, 2, WIDTH))
                block.norm.bias.copy_(torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        done: Tensor = self.norm(self.stage(self.first(x)))
        return done


def samples(count: int = 3) -> list[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(1, 8, WIDTH, generator=generator),) for _ in range(count)]


def pair(alpha: float = 1.0, norm: str = "norm", layer: str = "fc1") -> Equalization:
    return Equalization(norm=norm, layer=layer, alpha=alpha)


class Attention(nn.Module):
    """Two heads, each with query, key and value side by side; values with loud channels."""

    def __init__(self, *, heads: int = 2, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.num_heads = heads
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=bias)
        self.proj = nn.Linear(WIDTH, WIDTH)
        with torch.no_grad():
            loud = self.qkv.weight.view(2, 3, -1, WIDTH)[:, 2]
            loud *= torch.logspace(-1, 2, WIDTH).view(2, -1, 1)
            if bias:
                self.qkv.bias.copy_(10 * torch.randn(3 * WIDTH))

    def mixed(self, x: Tensor) -> Tensor:
        """What `proj` reads."""
        b, n, c = x.shape
        parts = self.qkv(x).view(b, n, self.num_heads, -1).transpose(1, 2)
        q, k, v = parts.split(c // self.num_heads, dim=3)
        out: Tensor = torch.softmax(q @ k.transpose(2, 3), -1) @ v
        return out.transpose(1, 2).reshape(b, n, c)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(self.mixed(x))
        return out


def spread(block: nn.Module, given: Tensor) -> float:
    """Largest range of a channel of a norm's result, over the smallest."""
    assert isinstance(block, Mlp)
    peaks = block.norm(given).abs().amax((0, 1))
    return float(peaks.max() / peaks.min())


def test_every_block_computes_the_same_and_its_channels_are_alike() -> None:
    module, given = Net().eval(), samples()
    with torch.no_grad():
        before, loud = module(*given[0]), spread(module.first, given[0][0])
        equalize.apply(module, [pair()], given)
        torch.testing.assert_close(module(*given[0]), before, atol=1e-4, rtol=1e-4)
        seen = torch.cat([x for (x,) in given])
        assert loud > 100
        assert spread(module.first, seen) == pytest.approx(1.0, abs=1e-3)
    assert [(p.source, p.layer) for p in equalize.pairs(module, [pair()])] == [
        ("first.norm", "first.fc1"),
        ("stage.0.norm", "stage.0.fc1"),
    ]


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_alpha_balances_ranges_of_activations_and_weights(alpha: float) -> None:
    module = Net().eval()
    with torch.no_grad():
        equalize.apply(module, [pair(alpha)], samples())
        columns = module.first.fc1.weight.abs().amax(0)
        rows = torch.cat([module.first.norm(x) for (x,) in samples()], 1).abs().amax((0, 1))
    if alpha == 0:
        torch.testing.assert_close(columns / columns[0], torch.ones(WIDTH))
    else:
        torch.testing.assert_close(columns / columns[0], rows / rows[0], atol=1e-4, rtol=1e-3)


def test_the_middle_of_each_channel_goes_into_the_next_bias() -> None:
    module, given = Net().eval(), samples()
    seen = torch.cat([x for (x,) in given])
    with torch.no_grad():
        module.first.norm.bias.copy_(torch.linspace(-500, 500, WIDTH))
        before = module(*given[0])
        equalize.apply(module, [pair(0.7)], given)
        torch.testing.assert_close(module(*given[0]), before, atol=1e-5, rtol=0)
        result = module.first.norm(seen)
    low, high = result.amin((0, 1)), result.amax((0, 1))
    # 5e-4 is seen, of the 500 that was taken away in FP32; channels reach 2 to 18 to each side.
    torch.testing.assert_close(low, -high, atol=1e-3, rtol=0)


def test_the_values_of_an_attention_are_alike_and_their_middles_zero() -> None:
    module, given = Attention().eval(), samples()
    seen = torch.cat([x for (x,) in given])
    wanted = Equalization(values="qkv", layer="proj", alpha=1.0)
    with torch.no_grad():
        before, loud = module(*given[0]), module.mixed(seen).abs().amax((0, 1))
        plain = module.qkv(seen)
        equalize.apply(module, [wanted], given)
        torch.testing.assert_close(module(*given[0]), before, atol=1e-5, rtol=0)
        mixed, after = module.mixed(seen), module.qkv(seen)
    low, high = mixed.amin((0, 1)), mixed.amax((0, 1))
    assert loud.max() / loud.min() > 10
    # 1e-4 is seen; the middles that were taken away are 1.7 to 27.
    torch.testing.assert_close(low, -high, atol=3e-4, rtol=0)
    assert float(high.max() / high.min()) == pytest.approx(1.0, abs=1e-3)
    # Queries and keys are what they were.
    shape = (*seen.shape[:2], 2, 3, WIDTH // 2)
    assert torch.equal(plain.view(shape)[..., :2, :], after.view(shape)[..., :2, :])


@pytest.mark.parametrize(
    ("module", "values", "layer", "said"),
    [
        (Attention(heads=3), "qkv", "proj", "the first has 48 outputs for 3 heads"),
        (Attention(bias=False), "qkv", "proj", "`qkv` and `proj`: they have no bias"),
        (Attention(), "proj", "qkv", "the first has 16 outputs for 2 heads, which are not"),
        (Mlp(), "fc1", "fc2", "the first has 32 outputs for 0 heads"),
        (Mlp(), "norm", "fc1", "they are not two linear layers"),
        (Mlp(), "qkv", "fc1", "no block has `qkv` and `fc1`"),
    ],
)
def test_attentions_that_are_none_are_refused(
    module: nn.Module, values: str, layer: str, said: str
) -> None:
    with pytest.raises(CheckFailed) as raised:
        equalize.pairs(module, [Equalization(values=values, layer=layer, alpha=0.5)])
    assert said in raised.value.message


def test_values_that_something_else_reads_are_refused() -> None:
    class Leaky(Attention):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.mixed(x)

    with pytest.raises(CheckFailed, match="changes the module's output"):
        equalize.apply(
            Leaky().eval(), [Equalization(values="qkv", layer="proj", alpha=1.0)], samples()
        )


def test_a_norm_without_a_bias_will_do() -> None:
    module = Net().eval()
    module.first.norm = nn.LayerNorm(WIDTH, bias=False)
    with torch.no_grad():
        before = module(*samples()[0])
        equalize.apply(module, [pair(0.7)], samples())
        torch.testing.assert_close(module(*samples()[0]), before, atol=1e-4, rtol=1e-4)
    assert module.first.norm.bias is None


def test_a_norm_that_something_else_reads_is_refused() -> None:
    module = Net(leaks=True).eval()
    with pytest.raises(CheckFailed, match="another layer reads the first of a pair"):
        equalize.apply(module, [pair()], samples())


@pytest.mark.parametrize(
    ("norm", "layer", "said"),
    [
        ("norm", "fc3", "no block has `norm` and `fc3`"),
        ("fc2", "norm", "`first.fc2` and `first.norm`: the first has no weight for each channel"),
        ("norm", "norm", "`first.norm` and `first.norm`: the second is not a linear layer"),
        ("norm", "fc2", "the first has 16 channels, the second takes 32"),
    ],
)
def test_pairs_that_are_none_are_refused_together(norm: str, layer: str, said: str) -> None:
    module = Net().eval()
    with pytest.raises(CheckFailed) as raised:
        equalize.pairs(module, [pair(norm=norm, layer=layer), pair(layer="nowhere")])
    assert said in raised.value.message
    assert "no block has `norm` and `nowhere`" in raised.value.message
