"""INT8 in .tflite files: treatments of layers, layers in floating point, and errors."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("litert_torch")
pytest.importorskip("ai_edge_litert")
pytest.importorskip("ai_edge_quantizer")
from effsam_export.backends.tflite import backend as tflite
from effsam_export.backends.tflite import file as tflite_file
from effsam_export.backends.tflite import quantize as tflite_ptq
from effsam_export.backends.tflite import quantize_layers
from effsam_export.errors import CheckFailed, UsageError
from effsam_export.spec.int8 import Int8Recipe, Quantization
from tests.backends.tflite.quantize_tools import (
    CHANNELS,
    SIZES,
    SPEC,
    TABLE,
    answer,
    converted,
    error,
    image,
    recipe,
    wanted,
)
from tests.backends.tflite.tools import target

if TYPE_CHECKING:
    from pathlib import Path

    from ai_edge_litert import schema_py_generated as schema

    from effsam_export.spec.stages import Graph

pytestmark = pytest.mark.backend


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Graph, bytes]:
    """The layers, traced and converted."""
    return converted(tmp_path_factory.mktemp("traced"))


@pytest.fixture(scope="module")
def graph(made: tuple[Graph, bytes]) -> Graph:
    """The traced layers."""
    return made[0]


@pytest.fixture(scope="module")
def content(made: tuple[Graph, bytes]) -> bytes:
    """The layers in FP32."""
    return made[1]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three inputs, as a folder of samples."""
    folder = tmp_path_factory.mktemp("samples")
    for i in range(3):
        np.savez(folder / f"{i:04}.npz", image=image(i))
    return folder


def quantized(
    content: bytes, graph: Graph, folder: Path, asked: Int8Recipe
) -> tuple[bytes, schema.ModelT]:
    assert graph.program is not None
    plan = Quantization(recipe=asked, samples=folder)
    result = tflite_ptq.quantize(content, graph.program, plan, SPEC)
    return result, tflite_file.parse(result)


def weights(model: schema.ModelT) -> Counter[tuple[str, str, bool]]:
    """Count operators by the dtype of their weights and whether a DEQUANTIZE precedes them."""
    (subgraph,) = model.subgraphs
    unpacked = {
        o.outputs[0]: o.inputs[0]
        for o in subgraph.operators
        if tflite_file.operator_name(model, o) == "DEQUANTIZE"
    }
    found = Counter[tuple[str, str, bool]]()
    for operator in subgraph.operators:
        kind = tflite_file.operator_name(model, operator)
        if kind in quantize_layers.WEIGHTS:
            index = operator.inputs[1]
            stored = subgraph.tensors[unpacked.get(index, index)]
            found[kind, tflite_file.dtype_name(stored), index in unpacked] += 1
    return found


# ------------------------------------------------------------------ treatments


@pytest.mark.parametrize(
    ("asked", "expected", "int8"),
    [
        (
            recipe(),
            {
                ("CONV_2D", "int8", False): 1,
                # XNNPACK has none that takes floating activations.
                ("DEPTHWISE_CONV_2D", "int8", True): 1,
                ("FULLY_CONNECTED", "int8", False): 3,
            },
            sum(SIZES.values()) + TABLE,
        ),
        (
            recipe("weight_only"),
            {
                ("CONV_2D", "int8", True): 1,
                ("DEPTHWISE_CONV_2D", "int8", True): 1,
                ("FULLY_CONNECTED", "int8", True): 3,
            },
            sum(SIZES.values()) + TABLE,
        ),
        (
            recipe(keep_float="deep", weight_only="stem block.fc"),
            {
                ("CONV_2D", "int8", True): 1,
                ("DEPTHWISE_CONV_2D", "float16", True): 1,
                ("FULLY_CONNECTED", "int8", True): 1,
                ("FULLY_CONNECTED", "int8", False): 2,
            },
            sum(SIZES.values()) - SIZES["deep"] + TABLE,
        ),
        (
            recipe(keep_float="*"),
            {
                ("CONV_2D", "float16", True): 1,
                ("DEPTHWISE_CONV_2D", "float16", True): 1,
                ("FULLY_CONNECTED", "float16", True): 3,
            },
            0,
        ),
        (
            recipe("fp32"),
            {
                ("CONV_2D", "float32", False): 1,
                ("DEPTHWISE_CONV_2D", "float32", False): 1,
                ("FULLY_CONNECTED", "float32", False): 3,
            },
            0,
        ),
    ],
    ids=["w8a8", "weight_only", "mixed", "keep_float", "fp32"],
)
def test_treatments(
    content: bytes,
    graph: Graph,
    tmp_path: Path,
    asked: Int8Recipe,
    expected: dict[tuple[str, str, bool], int],
    int8: int,
) -> None:
    result, model = quantized(content, graph, tmp_path, asked)
    assert weights(model) == expected
    counts = tflite_file.count_constants(model)
    assert counts.get("int8", 0) == int8
    if asked.scheme != "fp32":
        biases = 6 * CHANNELS + CHANNELS
        assert biases <= counts["float32"] <= biases + 4
    assert not tflite_file.signature_faults(model, "encoder", SPEC.inputs, SPEC.outputs)
    assert error(answer(result, tmp_path / "m.tflite"), wanted()) < 0.03


def test_products_of_activations_are_not_quantized(
    content: bytes, graph: Graph, tmp_path: Path
) -> None:
    _, model = quantized(content, graph, tmp_path, recipe())
    (subgraph,) = model.subgraphs
    products = [
        o for o in subgraph.operators if tflite_file.operator_name(model, o) == "BATCH_MATMUL"
    ]
    assert len(products) == 2
    for operator in products:
        tensors = [subgraph.tensors[i] for i in (*operator.inputs, *operator.outputs)]
        assert {tflite_file.dtype_name(t) for t in tensors} == {"float32"}
    assert "QUANTIZE" not in tflite_file.count_operators(model)


def test_weights_have_a_scale_for_each_channel_and_no_zero(
    content: bytes, graph: Graph, tmp_path: Path
) -> None:
    _, model = quantized(content, graph, tmp_path, recipe(keep_float="deep"))
    for operator in model.subgraphs[0].operators:
        if tflite_file.operator_name(model, operator) in ("CONV_2D", "FULLY_CONNECTED"):
            weight = model.subgraphs[0].tensors[operator.inputs[1]]
            assert len(weight.quantization.scale) == tflite_file.shape_of(weight)[0]
            assert not np.any(weight.quantization.zeroPoint)


def test_equal_arguments_give_equal_bytes(content: bytes, graph: Graph, samples: Path) -> None:
    for asked in (recipe(weight_only="stem"), replace(recipe(), quantize_activation_products=True)):
        first, second = (quantized(content, graph, samples, asked)[0] for _ in range(2))
        assert first == second


# ------------------------------------------------------------------ everything


def test_static_int8_keeps_fp32_inputs_and_outputs(
    content: bytes, graph: Graph, samples: Path, tmp_path: Path
) -> None:
    asked = replace(recipe(keep_float="deep"), quantize_activation_products=True)
    result, model = quantized(content, graph, samples, asked)
    assert not tflite_file.signature_faults(model, "encoder", SPEC.inputs, SPEC.outputs)
    (subgraph,) = model.subgraphs
    for operator in subgraph.operators:
        if tflite_file.operator_name(model, operator) in ("BATCH_MATMUL", "SOFTMAX"):
            tensors = [subgraph.tensors[i] for i in (*operator.inputs, *operator.outputs)]
            assert {tflite_file.dtype_name(t) for t in tensors} == {"int8"}
    assert weights(model)["DEPTHWISE_CONV_2D", "float16", True] == 1
    assert np.isfinite(answer(result, tmp_path / "m.tflite")).all()


def test_static_int8_needs_samples(content: bytes, graph: Graph, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="static INT8 needs calibration samples"):
        quantized(content, graph, tmp_path, replace(recipe(), quantize_activation_products=True))


def test_static_int8_supports_minmax_only(content: bytes, graph: Graph, samples: Path) -> None:
    asked = replace(recipe(), quantize_activation_products=True, method="mse")
    with pytest.raises(UsageError, match="supports the method `minmax` only, not `mse`"):
        quantized(content, graph, samples, asked)


# ------------------------------------------------------------------ the backend


def test_the_backend_quantizes_by_the_recipe(graph: Graph, tmp_path: Path) -> None:
    profile = replace(target("tflite", "fp32"), precision="int8")
    plan = Quantization(recipe=recipe(weight_only="stem", keep_float="deep"), samples=tmp_path)
    artifact = tflite.lower(replace(graph, quantization=plan), profile, tmp_path)
    assert artifact.precision == "int8"
    expected = sum(SIZES.values()) - SIZES["deep"] + TABLE
    assert artifact.tensors_by_dtype["int8"] == expected
    found = tflite.open_session(artifact).run({"image": image()})["image_embeddings"]
    assert error(found, wanted()) < 0.03


def test_the_receipt_names_the_quantizer(graph: Graph, tmp_path: Path) -> None:
    profile = replace(target("tflite", "fp32"), precision="int8")
    plan = Quantization(recipe=recipe("fp32"), samples=tmp_path)
    artifact = tflite.lower(replace(graph, quantization=plan), profile, tmp_path)
    assert set(artifact.versions) == {"ai_edge_litert", "ai_edge_quantizer", "litert_torch"}


def test_weights_that_the_library_did_not_quantize_are_refused(
    content: bytes, graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tflite_ptq, "_quantized", lambda *_: tflite_file.parse(content))
    with pytest.raises(
        CheckFailed,
        match=r": 0 weight elements are INT8 in the \.tflite file, and \d+ in the recipe",
    ):
        quantized(content, graph, tmp_path, recipe(keep_float="block.qkv"))
