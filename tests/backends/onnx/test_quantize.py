"""INT8 in ONNX: the graph of each treatment, its error, and its reproducibility."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from effsam_export.backends.onnx import activation_ranges
from effsam_export.backends.onnx import quantize as onnx_qdq
from effsam_export.backends.onnx.session import OnnxSession
from effsam_export.spec.int8 import Int8Recipe
from effsam_export.util import cpu
from tests.quantize import toy

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

    from numpy.typing import NDArray

    from effsam_export.spec.int8 import Quantization, Treatment


def answer(model: onnx.ModelProto, quantization: Quantization) -> NDArray[np.float32]:
    """The network's output for the first sample."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: NDArray[np.float32] = session.run(None, dict(next(iter(quantization.feeds()))))[0]
    return found


def error(model: onnx.ModelProto, quantization: Quantization) -> float:
    """Relative error against the network in FP32."""
    wanted = answer(toy.network(), quantization)
    return float(np.linalg.norm(answer(model, quantization) - wanted) / np.linalg.norm(wanted))


def optimized(model: onnx.ModelProto, folder: Path) -> set[str]:
    """Kinds of nodes that ONNX Runtime computes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return {n.op_type for n in onnx.load(folder / "optimized.onnx").graph.node}


def constants(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


def test_int8_is_near_fp32_and_stores_int8_weights(tmp_path: Path) -> None:
    quantization = toy.quantization(tmp_path / "s", toy.ALL)
    model = onnx_qdq.apply(toy.network(), quantization, tmp_path)
    onnx.checker.check_model(model)
    assert 1e-4 < error(model, quantization) < 0.05
    stored = [a for a in constants(model).values() if a.dtype == np.int8 and a.size > 128]
    assert len(stored) == 4
    assert not [a for a in constants(model).values() if a.dtype == np.float32 and a.size > 128]


def test_weight_only_int8_keeps_activations(tmp_path: Path) -> None:
    treatments: dict[str, Treatment] = dict.fromkeys(toy.ALL, "weight_only")
    quantization = toy.quantization(tmp_path / "s", treatments, Int8Recipe(scheme="weight_only"))
    model = onnx_qdq.apply(toy.network(), quantization, tmp_path)
    kinds = Counter(n.op_type for n in model.graph.node)
    assert kinds["Mul"] == kinds["Cast"] == 4
    assert not set(kinds) & {"QuantizeLinear", "DequantizeLinear"}
    # Nothing of it is left to be computed at each call, nor is an activation rounded.
    assert not optimized(model, tmp_path) & {"Cast", "Mul", "MatMulNBits"}
    assert 1e-4 < error(model, quantization) < 0.02
    for name, weight in toy.weights().items():
        if name == "stem_b":
            continue
        rounded, scale = constants(model)[f"{name}_int8"], constants(model)[f"{name}_scale"]
        assert scale.shape == ((len(scale), 1, 1, 1) if weight.ndim == 4 else (1, scale.size))
        assert np.abs(rounded * scale - weight).max() <= scale.max() / 2 * 1.001


def test_weight_only_int8_for_tensorrt_uses_dequantize_linear(tmp_path: Path) -> None:
    treatments: dict[str, Treatment] = dict.fromkeys(toy.ALL, "weight_only")
    quantization = toy.quantization(tmp_path / "s", treatments, Int8Recipe(scheme="weight_only"))
    model = onnx_qdq.apply(toy.network(), quantization, tmp_path, for_tensorrt=True)
    kinds = Counter(n.op_type for n in model.graph.node)
    assert kinds["DequantizeLinear"] == 4
    assert not set(kinds) & {"QuantizeLinear", "Mul", "Cast"}
    assert 1e-4 < error(model, quantization) < 0.02


def test_scales_stay_in_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_qdq, "MIN_FP16_ELEMENTS", 1)
    treatments: dict[str, Treatment] = {**toy.ALL, "fc1": "weight_only", "deep": "keep_float"}
    found = constants(
        onnx_qdq.apply(toy.network(), toy.quantization(tmp_path, treatments), tmp_path)
    )
    scales = {n: a for n, a in found.items() if "scale" in n}
    assert len(scales) > 4
    assert {a.dtype for a in scales.values()} == {np.dtype(np.float32)}
    assert found["deep_w_fp16"].dtype == np.float16


def test_a_layer_of_a_weight_only_recipe_may_have_int8_activations(tmp_path: Path) -> None:
    treatments: dict[str, Treatment] = {**dict.fromkeys(toy.ALL, "weight_only"), "fc1": "w8a8"}
    quantization = toy.quantization(tmp_path / "s", treatments, Int8Recipe(scheme="weight_only"))
    model = onnx_qdq.apply(toy.network(), quantization, tmp_path)
    makers = {o: n.op_type for n in model.graph.node for o in n.output}
    (node,) = [n for n in model.graph.node if n.name == "fc1"]
    assert [makers[i] for i in node.input] == ["DequantizeLinear", "DequantizeLinear"]
    assert [n.op_type for n in model.graph.node].count("QuantizeLinear") == 1


def test_a_product_by_a_constant_has_no_weights_to_store(tmp_path: Path) -> None:
    model = toy.network()
    model.graph.initializer.append(numpy_helper.from_array(np.array(2, np.float32), "two"))
    model.graph.output[0].name = "twice"
    model.graph.node.append(onnx.helper.make_node("Mul", ["out", "two"], ["twice"], name="mul"))
    recipe = Int8Recipe(scheme="w8a8", quantize_activation_products=True)
    treatments: dict[str, Treatment] = {
        **dict.fromkeys(toy.ALL, "weight_only"),
        "mul": "weight_only",
    }
    quantization = toy.quantization(tmp_path / "s", treatments, recipe)
    found = onnx_qdq.apply(model, quantization, tmp_path)
    assert constants(found)["two"].dtype == np.float32
    assert answer(found, quantization).shape == answer(toy.network(), quantization).shape


def test_other_constants_are_stored_in_fp16(tmp_path: Path) -> None:
    treatments: dict[str, Treatment] = {**toy.ALL, "stem": "keep_float", "fc1": "weight_only"}
    quantization = toy.quantization(tmp_path / "s", treatments)
    model = onnx_qdq.apply(toy.network(), quantization, tmp_path)
    found = constants(model)
    assert found["stem_w_fp16"].dtype == np.float16
    assert found["fc1_w_int8"].dtype == np.int8
    assert found["stem_b"].dtype == np.float32
    assert error(model, quantization) < 0.05


def test_products_of_activations_are_quantized_only_on_request(tmp_path: Path) -> None:
    def inputs_of_product(recipe: Int8Recipe, treatments: dict[str, Treatment]) -> list[str]:
        quantization = toy.quantization(tmp_path / "s", treatments, recipe)
        model = onnx_qdq.apply(toy.network(), quantization, tmp_path)
        makers = {o: n.op_type for n in model.graph.node for o in n.output}
        (node,) = [n for n in model.graph.node if n.name == "product"]
        return [makers[i] for i in node.input]

    assert "DequantizeLinear" not in inputs_of_product(Int8Recipe(scheme="w8a8"), toy.ALL)
    recipe = Int8Recipe(scheme="w8a8", quantize_activation_products=True)
    both = inputs_of_product(recipe, {**toy.ALL, "product": "w8a8"})
    assert both == ["DequantizeLinear", "DequantizeLinear"]
    # An exception leaves a product alone even then; what feeds it has its own treatment.
    left = inputs_of_product(recipe, {**toy.ALL, "product": "keep_float"})
    assert left == ["Reshape", "DequantizeLinear"]


def test_symmetric_activations_have_zero_at_zero(tmp_path: Path) -> None:
    quantization = toy.quantization(tmp_path / "s", toy.ALL)
    model = onnx_qdq.apply(toy.network(), quantization, tmp_path, for_tensorrt=True)
    found = constants(model)
    points = [
        found[n.input[2]] for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[2]
    ]
    assert points
    assert all(p.dtype == np.int8 and not p.any() for p in points)
    assert error(model, quantization) < 0.05


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    first, again = (
        onnx_qdq.apply(toy.network(), toy.quantization(tmp_path / name, toy.ALL), tmp_path)
        for name in ("s", "t")
    )
    assert first.SerializeToString() == again.SerializeToString()


def test_ranges_are_measured_once_for_all_treatments_of_a_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantization = toy.quantization(tmp_path / "s", toy.ALL)
    calls: list[str] = []
    measure = activation_ranges.measure

    def counted(*given: Any) -> object:  # noqa: ANN401 - those of `measure`
        calls.append("measured")
        return measure(*given)

    monkeypatch.setattr(activation_ranges, "measure", counted)
    first = onnx_qdq.apply(toy.network(), quantization, tmp_path)
    assert onnx_qdq.apply(toy.network(), quantization, tmp_path) == first
    fewer = replace(
        quantization, treatments={**quantization.treatments, next(iter(toy.ALL)): "keep_float"}
    )
    assert onnx_qdq.apply(toy.network(), fewer, tmp_path) != first
    assert calls == ["measured"]
    # Another method, and other weights.
    other = replace(quantization, recipe=replace(quantization.recipe, method="percentile"))
    onnx_qdq.apply(toy.network(), other, tmp_path)
    model = toy.network()
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    onnx_qdq.apply(model, quantization, tmp_path)
    assert len(calls) == 3


def test_the_graph_is_not_changed(tmp_path: Path) -> None:
    model = toy.network()
    before = model.SerializeToString()
    onnx_qdq.apply(model, toy.quantization(tmp_path / "s", toy.ALL), tmp_path)
    assert model.SerializeToString() == before


def test_other_samples_give_other_scales(tmp_path: Path) -> None:
    quantization = toy.quantization(tmp_path / "s", toy.ALL)
    first = onnx_qdq.apply(toy.network(), quantization, tmp_path)
    image = np.full((1, 3, toy.SIZE, toy.SIZE), 7, np.float32)
    np.savez(tmp_path / "s" / "0001.npz", image=image)
    assert onnx_qdq.apply(toy.network(), quantization, tmp_path) != first


def test_measured_activations_do_not_depend_on_overrides(tmp_path: Path) -> None:
    # Else the runtime fuses otherwise, and all other ranges have another last digit.
    quantization = toy.quantization(tmp_path / "s", toy.ALL)
    whole = onnx_qdq.activations_to_measure(toy.network(), quantization)
    assert len(quantization.treatments) > 1
    for name in quantization.treatments:
        fewer = replace(quantization, treatments={**quantization.treatments, name: "keep_float"})
        assert onnx_qdq.activations_to_measure(toy.network(), fewer) == whole
    for treatment in ("keep_float", "weight_only"):
        nothing = replace(
            quantization, treatments=dict.fromkeys(quantization.treatments, treatment)
        )
        assert onnx_qdq.activations_to_measure(toy.network(), nothing) == []


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_ranges_include_zero_and_lie_within_the_values(tmp_path: Path, method: str) -> None:
    quantization = toy.quantization(tmp_path / "s", toy.ALL)
    tensors = onnx_qdq.activations_to_measure(toy.network(), quantization)
    assert tensors == ["image", "a", "b", "c", "e", "f", "g", "h"]
    whole = activation_ranges.measure(
        toy.network(), tensors, quantization.feeds(), "minmax", tmp_path
    )
    found = activation_ranges.measure(
        toy.network(),
        tensors,
        quantization.feeds(),
        method,  # type: ignore[arg-type]
        tmp_path,
    )
    for name in tensors:
        low, high = found[name]
        assert whole[name][0] <= low <= 0 <= high <= whole[name][1]
    feeds = [f["image"] for f in quantization.feeds()]
    assert whole["image"] == (float(np.min(feeds)), float(np.max(feeds)))
    assert not list(tmp_path.glob("ranges*"))


def test_an_outlier_widens_only_minmax() -> None:
    values = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    values[7] = 500
    whole = (float(values.min()), 500.0)
    assert activation_ranges._percentile(values, whole)[1] < 6
    assert activation_ranges._min_error(values, whole)[1] < 499


@pytest.mark.parametrize("for_tensorrt", [False, True])
def test_the_bias_of_a_convolution_is_not_quantized_for_tensorrt(
    tmp_path: Path, for_tensorrt: bool
) -> None:
    quantization = toy.quantization(tmp_path / "s", toy.ALL)
    model = onnx_qdq.apply(toy.network(), quantization, tmp_path, for_tensorrt=for_tensorrt)
    stored = constants(model)
    dequantized = {
        str(stored[n.input[0]].dtype)
        for n in model.graph.node
        if n.op_type == "DequantizeLinear" and n.input[0] in stored
    }
    assert dequantized == ({"int8"} if for_tensorrt else {"int8", "int32"})
    assert ("stem_b" in stored) is for_tensorrt
    assert error(model, quantization) < 0.05


def exact_answer(
    model: onnx.ModelProto,
    quantization: Quantization,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> NDArray[np.float32]:
    """The output as on a CPU without VNNI."""
    onnx.save(model, folder / "toy.onnx")
    monkeypatch.setattr(cpu, "int8_flags", lambda: ())
    session: Any = OnnxSession(folder / "toy.onnx", "CPUExecutionProvider")
    options = session._session.get_session_options()
    assert options.get_session_config_entry("session.x64quantprecision") == "1"
    found: NDArray[np.float32] = session.run(next(iter(quantization.feeds())))["out"]
    return found


@pytest.mark.parametrize("for_tensorrt", [False, True])
@pytest.mark.parametrize("treatment", ["weight_only", "w8a8"])
def test_without_vnni_sums_do_not_saturate(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    treatment: Literal["weight_only", "w8a8"],
    for_tensorrt: bool,
) -> None:
    treatments: dict[str, Treatment] = dict.fromkeys(toy.ALL, treatment)
    quantization = toy.quantization(tmp_path / "s", treatments, Int8Recipe(scheme=treatment))
    model = onnx_qdq.apply(toy.network(), quantization, tmp_path, for_tensorrt=for_tensorrt)
    wanted = answer(toy.network(), quantization)
    found = exact_answer(model, quantization, tmp_path, monkeypatch)
    assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 0.05


def test_with_vnni_a_session_has_no_extra_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(toy.network(), tmp_path / "toy.onnx")
    monkeypatch.setattr(cpu, "int8_flags", lambda: ("avx_vnni",))
    session: Any = OnnxSession(tmp_path / "toy.onnx", "CPUExecutionProvider")
    with pytest.raises(RuntimeError, match="does not have configuration"):
        session._session.get_session_options().get_session_config_entry("session.x64quantprecision")
