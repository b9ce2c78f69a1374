"""Weights on the INT8 grid: never worse than the nearest, and the same for every toolchain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

pytest.importorskip("torch")
import torch
from torch import nn

from effsam_export.backends.onnx import quantize as onnx_qdq
from effsam_export.errors import CheckFailed
from effsam_export.quantize import rounding
from tests.quantize import toy

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from effsam_export.spec.int8 import Scheme


def correlated(size: int, count: int = 400, seed: int = 0) -> Tensor:
    """Inputs that share a few causes, as a network's do."""
    generator = torch.Generator().manual_seed(seed)
    causes = torch.randn(count, max(2, size // 4), generator=generator)
    mixing = torch.randn(causes.shape[1], size, generator=generator)
    return causes @ mixing + 0.1 * torch.randn(count, size, generator=generator)


def moment(inputs: Tensor) -> Tensor:
    return (inputs.T @ inputs).double()


def weight(rows: int, size: int) -> Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(1))


def squared_error(weight: Tensor, rounded: Tensor, moment: Tensor) -> float:
    """Squared error of a layer's output over the samples of a second moment."""
    difference = (rounded - weight).flatten(1).double()
    return float(((difference @ moment) * difference).sum())


def nearest(values: Tensor) -> Tensor:
    step = values.flatten(1).abs().amax(1).view(-1, *[1] * (values.dim() - 1)) / 127
    return (values / step).round() * step


def test_the_output_moves_far_less_than_with_the_nearest_weights() -> None:
    values, seen = weight(24, 40), moment(correlated(40))
    rounded = rounding.round_to_grid(values, seen)
    better = squared_error(values, rounded, seen)
    assert better < squared_error(values, nearest(values), seen) / 4
    # And on inputs that took no part.
    other = moment(correlated(40, seed=0)[:50] + 0.05 * torch.randn(50, 40))
    assert squared_error(values, rounded, other) < squared_error(values, nearest(values), other)


def test_weights_lie_on_the_grid_that_quantizers_take() -> None:
    values = weight(24, 40)
    rounded = rounding.round_to_grid(values, moment(correlated(40)))
    step = values.abs().amax(1, keepdim=True) / 127
    integers = rounded / step
    torch.testing.assert_close(integers, integers.round(), atol=1e-4, rtol=0)
    assert integers.abs().max() <= 127.001
    # Each channel keeps its largest weight, of which the scale is made.
    torch.testing.assert_close(rounded.abs().amax(1), values.abs().amax(1), atol=0, rtol=1e-6)


def test_inputs_that_are_not_correlated_ask_for_the_nearest_weights() -> None:
    values = weight(8, 16)
    torch.testing.assert_close(
        rounding.round_to_grid(values, torch.eye(16, dtype=torch.double)), nearest(values)
    )


@pytest.mark.parametrize("damping", [0.0, rounding.DAMPING])
def test_constant_zero_inputs_and_channels_are_handled(
    damping: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounding, "DAMPING", damping)
    values, inputs = weight(6, 12), correlated(12)
    values[2] = 0
    inputs[:, 5] = 0
    rounded = rounding.round_to_grid(values, moment(inputs))
    assert torch.isfinite(rounded).all()
    assert rounded[2].abs().max() == 0
    nothing = rounding.round_to_grid(values, torch.zeros(12, 12, dtype=torch.double))
    torch.testing.assert_close(nothing[0], nearest(values)[0])


def test_it_repeats_to_the_bit() -> None:
    values, seen = weight(24, 40), moment(correlated(40))
    found = rounding.round_to_grid(values, seen)
    assert torch.equal(found, rounding.round_to_grid(values, seen))
    assert found.is_contiguous()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.Conv2d(3, 8, (1, 3), padding=(0, 2), dilation=2),
        nn.Conv2d(3, 8, 1),
        nn.Linear(9, 4),
    ],
)
def test_columns_are_what_a_layer_multiplies(layer: nn.Conv2d | nn.Linear) -> None:
    shape = (2, 3, 7, 9)
    given = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    wanted = layer(given)
    found = rounding.columns(layer, given) @ layer.weight.flatten(1).T
    if isinstance(layer, nn.Conv2d):
        wanted = wanted.flatten(2).transpose(1, 2)
    assert layer.bias is not None
    torch.testing.assert_close(
        found + layer.bias, wanted.reshape(found.shape), atol=1e-5, rtol=1e-5
    )


class Branches(nn.Module):
    """One layer is called twice, one never."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        done: Tensor = self.used(self.used(x))
        return done


def test_moments_add_up_over_samples_and_calls() -> None:
    module = Branches().eval()
    samples = [(torch.randn(5, 4),), (torch.randn(3, 4),)]
    found = rounding.second_moments(module, ["used", "idle"], samples)
    assert set(found) == {"used"}
    with torch.no_grad():
        inputs = torch.cat([torch.cat([x, module.used(x)]) for (x,) in samples])
    torch.testing.assert_close(found["used"], moment(inputs), atol=1e-4, rtol=1e-4)
    module(samples[0][0])
    assert not module.used._forward_pre_hooks


def test_of_very_many_inputs_some_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.Linear(8, 8))
    samples = [(correlated(8, count=4000),)]
    (whole,) = rounding.second_moments(module, ["0"], samples).values()
    monkeypatch.setattr(rounding, "MAX_PRODUCTS", 8 * 8 * 1000)
    some, again = (rounding.second_moments(module, ["0"], samples)["0"] for _ in range(2))
    assert torch.equal(some, again)
    # A quarter of them, which say the same but for chance.
    assert not torch.equal(some, whole)
    torch.testing.assert_close(4 * some, whole, rtol=0.1, atol=0.1 * float(whole.diagonal().max()))
    monkeypatch.setattr(rounding, "MAX_PRODUCTS", 8 * 8 * 4000)
    assert torch.equal(rounding.second_moments(module, ["0"], samples)["0"], whole)


def test_the_block_size_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    values, seen = weight(24, 40), moment(correlated(40))
    whole = rounding.round_to_grid(values, seen)
    for block in (1, 7, 40):
        monkeypatch.setattr(rounding, "BLOCK", block)
        assert torch.equal(rounding.round_to_grid(values, seen), whole)


def round_to_grid(values: NDArray[np.float32], axis: int = 0) -> NDArray[np.float32]:
    """Weights of the toy network as a module would have them after rounding."""
    turned = torch.from_numpy(np.moveaxis(values, axis, 0).copy())
    size = turned[0].numel()
    done = rounding.round_to_grid(turned, moment(correlated(size, count=2 * size)))
    return np.moveaxis(done.numpy(), 0, axis)


AXES = {"stem_w": 0, "fc1_w": 1, "fc2_w": 1}


def toy_on_grid() -> tuple[onnx.ModelProto, dict[str, NDArray[np.float32]]]:
    """The toy network with its rounded weights, and those."""
    model = toy.network()
    rounded = {}
    for constant in model.graph.initializer:
        if constant.name in AXES:
            values = round_to_grid(numpy_helper.to_array(constant), AXES[constant.name])
            rounded[constant.name] = values
            constant.CopyFrom(numpy_helper.from_array(values, constant.name))
    return model, rounded


def same_as_any(values: NDArray[np.float32], stored: Sequence[NDArray[np.float32]]) -> bool:
    """Whether some stored weight is this one, either way round."""
    return any(
        found.shape == wanted.shape and np.allclose(found, wanted, atol=1e-6, rtol=1e-5)
        for found in stored
        for wanted in (values, values.T if values.ndim == 2 else values)
    )


@pytest.mark.parametrize("treatment", ["w8a8", "weight_only"])
def test_onnx_finds_the_same_weights_again(tmp_path: Path, treatment: str) -> None:
    model, rounded = toy_on_grid()
    asked = toy.quantization(tmp_path / "s", dict.fromkeys(toy.ALL, treatment))  # type: ignore[arg-type]
    done = onnx_qdq.apply(model, asked, tmp_path)
    constants = {i.name: numpy_helper.to_array(i) for i in done.graph.initializer}
    stored = []
    for node in done.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            integers, scale = constants[node.input[0]], constants[node.input[1]]
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            shape = [1] * integers.ndim
            if scale.size > 1:
                shape[axis] = -1
            stored.append(integers.astype(np.float32) * scale.reshape(shape))
        elif node.op_type == "Mul" and node.input[1] in constants:
            stored.append(constants[f"{node.output[0]}_int8"] * constants[node.input[1]])
    for values in rounded.values():
        assert same_as_any(values, stored)


@pytest.mark.backend
@pytest.mark.parametrize("treatment", ["w8a8", "weight_only"])
def test_openvino_finds_the_same_weights_again(tmp_path: Path, treatment: str) -> None:
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    from effsam_export.backends.openvino import quantize as nncf_ptq

    model, rounded = toy_on_grid()
    path = tmp_path / "toy.onnx"
    onnx.save(model, path)
    asked = toy.quantization(tmp_path / "s", dict.fromkeys(toy.ALL, treatment))  # type: ignore[arg-type]
    done = nncf_ptq.apply(openvino.convert_model(path), asked)
    openvino.save_model(done, tmp_path / "toy.xml", compress_to_fp16=False)
    stored = []
    for op in openvino.Core().read_model(tmp_path / "toy.xml").get_ordered_ops():
        if op.get_type_name() != "Multiply":
            continue
        convert, scale = (op.input_value(i).get_node() for i in (0, 1))
        while scale.get_type_name() == "Convert":
            scale = scale.input_value(0).get_node()
        source = convert.input_value(0).get_node() if convert.get_input_size() else convert
        if source.get_type_name() == "Constant" and scale.get_type_name() == "Constant":
            stored.append(source.get_data().astype(np.float32) * scale.get_data())
    if treatment == "w8a8":
        # NNCF gives the network's first convolution half the range, against overflow on old CPUs.
        assert not same_as_any(rounded.pop("stem_w"), stored)
    for values in rounded.values():
        assert same_as_any(values, stored)


def round_weights(
    module: nn.Module, names: Sequence[str], samples: Sequence[Sequence[Tensor]]
) -> None:
    """Round some layers where they are."""
    with torch.no_grad():
        for name, seen in rounding.second_moments(module, names, samples).items():
            layer = module.get_submodule(name)
            assert isinstance(layer.weight, torch.Tensor)
            layer.weight.copy_(rounding.round_to_grid(layer.weight, seen))


@pytest.mark.backend
@pytest.mark.parametrize("scheme", ["w8a8", "weight_only"])
def test_tflite_finds_the_same_weights_again(tmp_path: Path, scheme: Scheme) -> None:
    for package in ("litert_torch", "ai_edge_litert", "ai_edge_quantizer"):
        pytest.importorskip(package)
    from effsam_export.backends.tflite import convert as tflite_convert
    from effsam_export.backends.tflite import file as tflite_file
    from effsam_export.backends.tflite import quantize as tflite_ptq
    from effsam_export.spec.int8 import Quantization
    from tests.backends.tflite import quantize_tools as tools
    from tests.backends.tflite.tools import save_program

    module = tools.layers()
    samples = [(torch.from_numpy(tools.image(seed)),) for seed in range(3)]
    names = ["block.qkv", "block.proj", "stem"]
    round_weights(module, names, samples)
    graph = save_program(module, tools.SPEC, tmp_path / "encoder.pt2")
    assert graph.program is not None
    content = tflite_convert.convert(graph.program, tools.SPEC)
    asked = Quantization(recipe=tools.recipe(scheme), samples=tmp_path)
    records = tflite_file.parse(tflite_ptq.quantize(content, graph.program, asked, tools.SPEC))
    stored = []
    for tensor in records.subgraphs[0].tensors:
        data = records.buffers[tensor.buffer].data
        if data is None or tensor.quantization is None or tensor.quantization.scale is None:
            continue
        shape = tflite_file.shape_of(tensor)
        integers = np.frombuffer(bytes(data), np.int8).reshape(shape).astype(np.float32)
        along = [1] * len(shape)
        along[tensor.quantization.quantizedDimension] = -1
        values = integers * np.asarray(tensor.quantization.scale, np.float32).reshape(along)
        # Channels last, a convolution of one pixel is a linear layer.
        stored += [values, np.moveaxis(values, -1, 1)] if values.ndim == 4 else [values]
    for name in names:
        layer = module.get_submodule(name)
        assert isinstance(layer.weight, torch.Tensor)
        assert same_as_any(layer.weight.numpy(force=True), stored)


@pytest.mark.backend
def test_core_ml_finds_the_same_weights_again(tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    from tests.backends.coreml import quantize_tools as tools

    module = tools.Net().eval()
    pictures = tools.images(4)
    samples = [(torch.from_numpy(p),) for p in pictures]
    names = ["stem", "mlp.0", "mlp.2"]
    round_weights(module, names, samples)
    folder = tools.write(tmp_path / "samples", tools.as_feeds(pictures))
    artifact = tools.lower(
        tools.graph(tmp_path, module), tmp_path / "out", tools.recipe("w8a8"), folder
    )
    program = tools.opened(artifact)
    for name in names:
        key = tools.unpacked(program, name)
        integers = tools.constant(program, key, "quantized_data").astype(np.float32)
        scale = tools.constant(program, key, "scale").astype(np.float32)
        layer = module.get_submodule(name)
        assert isinstance(layer.weight, torch.Tensor)
        wanted = layer.weight.numpy(force=True)
        # Scales are FP16 in a package of FP16; the integers are the same.
        step = np.abs(wanted).reshape(len(wanted), -1).max(1) / 127
        along = (-1, *[1] * (wanted.ndim - 1))
        assert np.array_equal(integers, np.rint(wanted / step.reshape(along)))
        np.testing.assert_allclose(scale.reshape(-1), step, rtol=2e-3)


def test_a_convolution_with_named_padding_is_refused() -> None:
    with pytest.raises(CheckFailed, match="cannot round a convolution with `same` padding"):
        rounding.columns(nn.Conv2d(3, 8, 3, padding="same"), torch.zeros(1, 3, 4, 4))
