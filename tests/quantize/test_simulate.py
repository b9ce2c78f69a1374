"""Sensitivities and predictions on a small network in PyTorch."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effsam_export.backends import BACKENDS
from effsam_export.quantize.layer_inputs import LayerInputs, Statistics, can_simulate, collect
from effsam_export.quantize.rules import RULES, RoundingRules, rules_of
from effsam_export.quantize.simulate import (
    predicted_db,
    rounded,
    rounded_weight,
    sensitivities,
    sqnr_db,
    with_gain,
)

if TYPE_CHECKING:
    from effsam_export.spec.int8 import Treatment

NAMES = ("stem", "deep", "linear")


class Net(nn.Module):
    """A convolution, a depthwise one and a linear layer; an image's rows are its tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 1))
        self.deep = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.linear = nn.Linear(8, 16)
        self.unused = nn.Linear(2, 2)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.deep(torch.relu(self.stem(image))).flatten(2).transpose(1, 2)
        return torch.Tensor(self.linear(tokens))


def samples(count: int = 4) -> list[tuple[Tensor, ...]]:
    random = torch.Generator().manual_seed(1)
    return [(torch.randn(1, 3, 16, 12, generator=random),) for _ in range(count)]


@pytest.fixture(scope="module")
def net() -> Net:
    return Net().eval()


@pytest.fixture(scope="module")
def statistics(net: Net) -> Statistics:
    return measure(net)


def measure(net: Net, images: list[tuple[Tensor, ...]] | None = None) -> Statistics:
    images = images or samples()
    names = [*NAMES, "unused"]
    return collect(
        net, names, iter(images), count=len(images), simulated=2, on_progress=lambda *_: None
    )


def by_path(net: Net, found: Statistics, rules: RoundingRules) -> dict[str, dict[Treatment, float]]:
    return {s.path: dict(s.sqnr_db) for s in sensitivities(net, found, rules)}


def test_one_pass_collects_what_layers_read(net: Net, statistics: Statistics) -> None:
    assert list(statistics.layers) == list(NAMES)
    images = torch.cat([s[0] for s in samples()])
    stem = statistics.layers["stem"]
    assert stem.low == float(images.min())
    assert stem.high == float(images.max())
    # Behind a ReLU: the range includes zero, and begins there.
    assert statistics.layers["deep"].low == 0
    assert stem.macs == 8 * 12 * 8 * (3 * 3 * 5)
    assert statistics.layers["deep"].macs == 8 * 12 * 8 * 9
    assert statistics.layers["linear"].macs == 8 * 12 * 16 * 8
    assert len(statistics.samples) == len(statistics.outputs) == 2
    assert torch.equal(statistics.outputs[1][0], net(*samples()[1]))


@pytest.mark.parametrize("name", NAMES)
def test_products_of_the_inputs_are_values_of_the_output(
    net: Net, statistics: Statistics, name: str
) -> None:
    """Stride, padding, dilation and groups are those of the layer."""
    layer, seen = net.get_submodule(name), []
    handle = layer.register_forward_hook(lambda _m, _x, y: seen.append(y))
    for sample in samples():
        net(*sample)
    handle.remove()
    assert isinstance(layer, (nn.Conv2d, nn.Linear))
    weight, bias = layer.weight.detach(), layer.bias
    assert bias is not None
    for inputs, output in zip(statistics.layers[name].kept, seen, strict=True):
        if isinstance(layer, nn.Linear):
            found = F.linear(inputs, weight, bias.detach())
            values = output.reshape(-1, output.shape[-1])
        else:
            patches = F.conv2d(inputs, weight, bias.detach(), groups=layer.groups)
            found = patches[:, :, 0, 0]
            values = output.flatten(2)[0].T
        exact = "donot_use_mm_for_euclid_dist"
        distance = torch.cdist(found, values.detach(), compute_mode=exact).amin(1)
        assert float(distance.max()) < 1e-5


def test_weights_are_rounded_to_127_steps_of_each_channel(net: Net) -> None:
    small, weight = rounded_weight(net.linear), net.linear.weight.detach()
    step = weight.abs().amax(1, keepdim=True) / 127
    integers = small / step
    assert torch.allclose(integers, integers.round(), atol=1e-4)
    assert integers.abs().amax(1).allclose(torch.full((16,), 127.0))
    assert float((small - weight).abs().div(step).max()) <= 0.5 + 1e-4


def test_a_range_has_255_steps_and_an_exact_zero() -> None:
    values = torch.linspace(-1, 3, 1001)
    found = rounded(values, torch.tensor(-1.0), torch.tensor(3.0), symmetric=False)
    assert len(set(found.tolist())) == 256
    assert float((found - values).abs().max()) <= 2 / 255 + 1e-5
    assert 0.0 in found.tolist()
    symmetric = rounded(values, torch.tensor(-1.0), torch.tensor(3.0), symmetric=True)
    # A third of a symmetric range is empty.
    assert len(set(symmetric.tolist())) == 43 + 127
    clipped = rounded(torch.tensor([9.0]), torch.tensor(-1.0), torch.tensor(3.0), symmetric=False)
    assert float(clipped) == pytest.approx(3, abs=4 / 255)


def test_int8_activations_are_worse_than_weights_alone(net: Net, statistics: Statistics) -> None:
    found = by_path(net, statistics, RULES["openvino"])
    for path in NAMES:
        assert 25 < found[path]["w8a8"] < found[path]["weight_only"] < 60


def test_an_outlier_spoils_one_scale_and_not_a_scale_for_each_row(net: Net) -> None:
    net = Net().eval()
    with torch.no_grad():
        net.deep.bias[3] += 200.0  # type: ignore[index]
        net.linear.weight[:, 3] = 0
    plain = by_path(net, measure(net), RoundingRules())["linear"]["w8a8"]
    rows = by_path(net, measure(net), RoundingRules(dynamic=True))["linear"]["w8a8"]
    assert plain < 15
    # Every row has the outlier, too.
    assert abs(rows - plain) < 6
    images = samples()
    images[0][0].mul_(100)
    net = Net().eval()
    plain = by_path(net, measure(net, images), RoundingRules())["linear"]["w8a8"]
    rows = by_path(net, measure(net, images), RoundingRules(dynamic=True))["linear"]["w8a8"]
    # Both are measured by their largest rows, so only the direction is certain.
    assert rows > plain


def test_a_rounded_output_adds_noise_to_a_convolution(net: Net, statistics: Statistics) -> None:
    without = by_path(net, statistics, RoundingRules())
    outputs = by_path(net, statistics, RULES["onnx"])
    assert outputs["stem"]["w8a8"] < without["stem"]["w8a8"]
    assert outputs["linear"] == without["linear"]


def test_a_target_has_the_treatments_of_its_toolchain(net: Net, statistics: Statistics) -> None:
    tflite = by_path(net, statistics, RULES["tflite"])
    assert set(tflite["deep"]) == {"weight_only"}
    assert set(tflite["stem"]) == {"weight_only", "w8a8"}
    old = by_path(net, statistics, rules_of("coreml", {"deployment_target": "iOS16"}))
    assert all(set(entry) == {"weight_only"} for entry in old.values())
    assert rules_of("coreml", {"deployment_target": "iOS17"}).activations
    assert set(RULES) == set(BACKENDS)


def test_a_prediction_falls_with_each_layer_in_int8(net: Net, statistics: Statistics) -> None:
    def db(treatments: dict[str, Treatment]) -> float:
        return predicted_db(net, statistics, RULES["onnx"], treatments)

    series: list[dict[str, Treatment]] = [
        dict.fromkeys(NAMES, "w8a8"),
        {**dict.fromkeys(NAMES, "w8a8"), "stem": "weight_only"},
        dict.fromkeys(NAMES, "weight_only"),
        {**dict.fromkeys(NAMES, "keep_float"), "linear": "weight_only"},
    ]
    found = [db(treatments) for treatments in series]
    assert all(a < b for a, b in pairwise(found))
    assert 20 < found[0] < found[-1] < 60
    assert db(dict.fromkeys(NAMES, "keep_float")) == math.inf


def test_a_gain_relates_the_outputs_to_the_product(net: Net, statistics: Statistics) -> None:
    rules = RULES["openvino"]
    for layer in sensitivities(net, statistics, rules):
        found = with_gain(net, statistics, rules, layer)
        treatment: Treatment = "weight_only" if layer.path == "deep" else "w8a8"
        output = predicted_db(net, statistics, rules, {layer.path: treatment}, count=1)
        assert -10 * math.log10(found.noise(treatment)) == pytest.approx(output)
    # Nothing follows the last layer, whose bias is a part of the output but not of the product.
    with torch.no_grad():
        last = Net().eval()
        last.linear.bias.zero_()
    seen = measure(last)
    layer = sensitivities(last, seen, rules)[-1]
    assert layer.path == "linear"
    assert with_gain(last, seen, rules, layer).gain == pytest.approx(1, abs=0.3)


def test_a_prediction_leaves_the_module_as_it_was(net: Net, statistics: Statistics) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    predicted_db(net, statistics, RULES["tflite"], dict.fromkeys(NAMES, "w8a8"))
    assert all(torch.equal(before[n], v) for n, v in net.state_dict().items())
    assert torch.equal(statistics.outputs[0][0], net(*samples()[0]))
    broken = Statistics(layers={"stem": LayerInputs()}, samples=[(torch.zeros(1),)], outputs=[()])
    with pytest.raises(RuntimeError):
        predicted_db(net, broken, RULES["onnx"], {"stem": "w8a8"})
    assert all(torch.equal(before[n], v) for n, v in net.state_dict().items())


def test_a_layer_that_is_called_in_another_way_is_left_out() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.keyword = nn.Linear(4, 4)
            self.single = nn.Conv2d(1, 1, 1)
            self.plain = nn.Linear(4, 4)

        def forward(self, values: Tensor) -> Tensor:
            rows = self.keyword(input=values)
            return torch.Tensor(self.plain(self.single(rows[None])[0]))

    found = collect(
        Odd().eval(),
        ["keyword", "single", "plain"],
        [(torch.ones(3, 4),)],
        count=1,
        simulated=1,
        on_progress=lambda *_: None,
    )
    assert list(found.layers) == ["plain"]


def test_only_layers_that_can_be_repeated_on_patches_are_simulated() -> None:
    assert can_simulate(nn.Linear(1, 1))
    assert can_simulate(nn.Conv2d(1, 1, 1))
    assert not can_simulate(nn.Conv2d(1, 1, 3, padding="same"))
    assert not can_simulate(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"))
    assert not can_simulate(nn.ConvTranspose2d(1, 1, 2))


def test_sqnr_of_nothing_is_infinite_or_none() -> None:
    one = torch.ones(4)
    assert sqnr_db(one, one) == math.inf
    assert sqnr_db(one, one * 1.1) == pytest.approx(20)
    assert sqnr_db(torch.zeros(4), one) == -math.inf
