"""INT8 in OpenVINO: the model of each treatment, and its reproducibility."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.quantize import toy

if TYPE_CHECKING:
    from pathlib import Path

    import openvino

    from effsam_export.spec.int8 import Quantization, Treatment

pytest.importorskip("nncf")
pytestmark = pytest.mark.backend


def converted(folder: Path) -> openvino.Model:
    import onnx
    import openvino

    onnx.save(toy.network(), folder / "toy.onnx")
    return openvino.convert_model(folder / "toy.onnx")


def quantized(folder: Path, quantization: Quantization) -> openvino.Model:
    from effsam_export.backends.openvino import quantize as nncf_ptq

    return nncf_ptq.apply(converted(folder), quantization)


def run(model: openvino.Model, quantization: Quantization) -> np.ndarray:
    import openvino

    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled(dict(next(iter(quantization.feeds()))))[0])


def fakes(model: openvino.Model) -> set[str]:
    """Layers with a quantized activation."""
    found = set()
    for op in model.get_ops():
        if op.get_type_name() == "FakeQuantize":
            source = op.input_value(0).get_node().get_type_name()
            if source not in ("Constant", "Convert", "Multiply", "Reshape"):
                for target in op.output(0).get_target_inputs():
                    found.add(target.get_node().get_friendly_name())
    return found


def dtypes(model: openvino.Model) -> dict[str, int]:
    """Elements of the constants by dtype."""
    found: dict[str, int] = {}
    for op in model.get_ops():
        if op.get_type_name() == "Constant":
            name = op.get_element_type().get_type_name()
            found[name] = found.get(name, 0) + int(np.prod(op.get_output_shape(0)))
    return found


def error(folder: Path, quantization: Quantization) -> float:
    wanted = run(converted(folder), quantization)
    found = run(quantized(folder, quantization), quantization)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def test_int8_is_near_fp32(tmp_path: Path) -> None:
    assert 1e-4 < error(tmp_path, toy.quantization(tmp_path / "s", toy.ALL)) < 0.05


def test_layers_are_found_by_the_names_of_the_onnx_graph(tmp_path: Path) -> None:
    from effsam_export.backends.openvino import quantize as nncf_ptq

    treatments: dict[str, Treatment] = {**toy.ALL, "stem": "keep_float", "fc2": "weight_only"}
    found = nncf_ptq.find_layers(converted(tmp_path), toy.quantization(tmp_path / "s", treatments))
    # What gives an output of the graph is called by its name.
    assert found == {
        "stem/WithoutBiases": "keep_float",
        "deep": "w8a8",
        "fc1": "w8a8",
        "fc2": "weight_only",
        "out": "keep_float",
    }


def test_each_treatment_is_applied(tmp_path: Path) -> None:
    treatments: dict[str, Treatment] = {**toy.ALL, "stem": "keep_float", "fc2": "weight_only"}
    model = quantized(tmp_path, toy.quantization(tmp_path / "s", treatments))
    found = dtypes(model)
    sizes = {k: v.size for k, v in toy.weights().items()}
    assert found["f16"] >= sizes["stem_w"]
    assert "f32" not in found or found["f32"] < 1024
    assert found["i8"] >= sizes["fc2_w"]
    assert "fc2" not in fakes(model)
    assert "product" not in fakes(model)


def test_weight_only_int8_needs_no_samples(tmp_path: Path) -> None:
    treatments: dict[str, Treatment] = dict.fromkeys(toy.ALL, "weight_only")
    asked = toy.quantization(tmp_path / "s", treatments)
    model = quantized(tmp_path, asked)
    assert "FakeQuantize" not in {o.get_type_name() for o in model.get_ops()}
    assert 1e-4 < error(tmp_path, asked) < 0.02


def test_the_file_disables_dynamic_quantization(tmp_path: Path) -> None:
    import openvino

    model = quantized(
        tmp_path, toy.quantization(tmp_path / "s", dict.fromkeys(toy.ALL, "weight_only"))
    )
    openvino.save_model(model, tmp_path / "m.xml", compress_to_fp16=False)
    compiled = openvino.Core().compile_model(str(tmp_path / "m.xml"), "CPU")
    assert compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 0


def test_the_same_samples_give_the_same_file(tmp_path: Path) -> None:
    import openvino

    from effsam_export.backends.openvino.backend import number_names

    asked = toy.quantization(tmp_path / "s", {**toy.ALL, "fc2": "weight_only"})
    files = []
    for name in ("a", "b"):
        model = quantized(tmp_path, asked)
        number_names(model)
        openvino.save_model(model, tmp_path / f"{name}.xml", compress_to_fp16=False)
        files.append([(tmp_path / f"{name}.{s}").read_bytes() for s in ("xml", "bin")])
    assert files[0] == files[1]


def test_large_tables_of_indices_are_stored_in_the_smallest_dtype() -> None:
    import openvino
    from openvino import opset13

    from effsam_export.backends.openvino.quantize import store_small

    table = np.arange(4096, dtype=np.int64)
    data = opset13.parameter([4096], np.float32)
    model = openvino.Model([opset13.gather(data, table, 0)], [data])
    near = openvino.Model([opset13.gather(data, table % 256, 0)], [data])
    below = openvino.Model([opset13.gather(data, -(table % 256), 0)], [data])
    huge = openvino.Model([opset13.gather(data, table + 2**40, 0)], [data])
    for each in (model, near, below, huge):
        store_small(each)
    assert dtypes(model)["i32"] == dtypes(below)["i32"] == 4096
    assert dtypes(near)["u8"] == 4096
    assert dtypes(huge)["i64"] >= 4096


def test_a_weight_of_two_layers_is_stored_once_with_a_scale_for_each_channel() -> None:
    import openvino
    from openvino import opset13

    from effsam_export.backends.openvino import quantize as nncf_ptq

    generator = np.random.default_rng(2)
    values = (generator.normal(size=(6, 4)) * np.logspace(-2, 1, 4)).astype(np.float32)
    given = opset13.parameter([2, 6], np.float32, name="given")
    weight = opset13.constant(values, name="weight")
    once = opset13.matmul(given, weight, transpose_a=False, transpose_b=False, name="once")
    back = opset13.matmul(once, weight, transpose_a=False, transpose_b=True, name="back")
    again = opset13.matmul(back, weight, transpose_a=False, transpose_b=False, name="again")
    moved = opset13.add(again, opset13.constant(np.ones(4, np.float32)), name="moved")
    model = openvino.Model([moved], [given], "net")
    inputs = generator.normal(size=(2, 6)).astype(np.float32)
    before = openvino.compile_model(model, "CPU")(inputs)[0]
    nncf_ptq.store_in_int8(model, {"once", "back", "again", "moved"})
    integers = [
        op
        for op in model.get_ops()
        if op.get_type_name() == "Constant" and op.get_element_type() == openvino.Type.i8
    ]
    # One for each way round: scales lie along other axes.
    assert len(integers) == 2
    full = [np.abs(op.get_data().astype(np.int32)) for op in integers]
    assert sorted((a == 127).any(axis=0).all() for a in full) == [False, True]
    assert sorted((a == 127).any(axis=1).all() for a in full) == [False, True]
    after = openvino.compile_model(model, "CPU")(inputs)[0]
    assert np.linalg.norm(after - before) / np.linalg.norm(before) < 0.02


@pytest.mark.parametrize(
    ("shape", "kind", "axes"),
    [
        ((8, 4, 3, 3), "Convolution", (0,)),
        ((4, 2, 1, 3, 3), "GroupConvolution", (0, 1)),
        ((4, 8, 2, 2), "ConvolutionBackpropData", (1,)),
    ],
)
def test_output_channels_of_convolutions(
    shape: tuple[int, ...], kind: str, axes: tuple[int, ...]
) -> None:
    from openvino import opset13

    from effsam_export.backends.openvino import quantize as nncf_ptq

    image = opset13.parameter([1, 4, 6, 6], np.float32)
    weight = opset13.constant(np.ones(shape, np.float32))
    steps, pads = [1, 1], [0, 0]
    if kind == "ConvolutionBackpropData":
        op = opset13.convolution_backprop_data(image, weight, steps)
    elif kind == "GroupConvolution":
        op = opset13.group_convolution(image, weight, steps, pads, pads, steps)
    else:
        op = opset13.convolution(image, weight, steps, pads, pads, steps)
    assert op.get_type_name() == kind
    assert nncf_ptq.output_axes(op, len(shape)) == axes
