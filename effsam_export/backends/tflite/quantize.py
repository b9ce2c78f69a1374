"""Quantize a .tflite file to INT8 with Google's `ai-edge-quantizer`.

Treatments of a layer:

* INT8 weights and activations: weights have a scale for each output channel. Activations stay FP32
  in the file; at run time XNNPACK quantizes each row of a layer's input (a pixel, a token) with its
  own range. This dynamic quantization needs no samples. XNNPACK does not have it for depthwise
  convolutions, which get weight-only INT8.
* Weight-only INT8: the same weights before a DEQUANTIZE, which the runtime computes once.
* Floating point: FP16 weights before a DEQUANTIZE, like all other constants except biases.

A recipe that quantizes products of activations selects the library's static INT8 for all operators,
with ranges from the samples. The inputs and outputs of the file stay FP32.
"""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from effsam_export.backends.tflite import file as tflite_file
from effsam_export.backends.tflite import quantize_bias, quantize_large, quantize_layers
from effsam_export.backends.tflite.session import quiet_runtime
from effsam_export.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_quantizer.recipe_manager import RecipeManager

    from effsam_export.spec.int8 import Quantization, Treatment
    from effsam_export.spec.model import ComponentSpec

BITS = 8
BIAS = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}
"""Operator -> index of its bias input."""


def quantize(
    model: bytes, program: Path, quantization: Quantization, component: ComponentSpec
) -> bytes:
    """Quantize a file by a recipe; equal arguments give equal bytes.

    Args:
        model: Bytes of the FP32 file, one graph with one signature.
        program: The traced program that it was converted from.
        quantization: The recipe, and samples for static INT8.
        component: Contract; its name is the name of the signature.

    Returns:
        The bytes of the quantized file with the same signature, and FP32 inputs and outputs.

    Raises:
        UsageError: Static INT8 with another method than `minmax`, or without samples.
        CheckFailed: A layer of the program is not in the file, or the library did not quantize one.
    """
    recipe = quantization.recipe
    records = tflite_file.parse(model)
    if recipe.quantizes:
        layers = quantize_layers.match_layers(records, quantize_layers.layers_of_program(program))
        plan = {i: treatment_of(records, i, recipe.treatment(x.modules)) for i, x in layers.items()}
        rounded = {i: x for i, x in layers.items() if plan[i] != "keep_float"}
        entries = [(_name(records, i), _kind(records, i), t) for i, t in plan.items()]
        wanted = _elements(records, list(rounded))
        quantize_layers.unfold_input_scales(records, rounded)
        if rounded or recipe.quantize_activation_products:
            records = _quantized(records, entries, quantization, component)
        found = tflite_file.count_constants(records).get("int8", 0)
        if found < wanted:
            raise CheckFailed(
                f"{component.name}: {found} weight elements are INT8 in the .tflite file, and "
                f"{wanted} in the recipe"
            )
        if rounded:
            quantize_bias.store_tables_in_int8(records)
    if recipe.scheme != "fp32":
        tflite_file.store_constants_in_fp16(records, biases(records))
    return tflite_file.serialise(records)


def treatment_of(model: schema.ModelT, index: int, treatment: Treatment) -> Treatment:
    """Return the treatment that XNNPACK supports for an operator, given that of the recipe."""
    kind = tflite_file.operator_name(model, model.subgraphs[0].operators[index])
    return "weight_only" if treatment == "w8a8" and kind == "DEPTHWISE_CONV_2D" else treatment


def biases(model: schema.ModelT) -> frozenset[int]:
    """Return the buffers of the biases of layers.

    They stay FP32: XNNPACK does not support an INT8 layer whose bias is behind a DEQUANTIZE.
    """
    return frozenset(
        graph.tensors[index].buffer
        for graph in model.subgraphs
        for operator in graph.operators
        for index in _bias(model, operator)
    )


def _bias(model: schema.ModelT, operator: schema.OperatorT) -> list[int]:
    index = BIAS.get(tflite_file.operator_name(model, operator), len(operator.inputs))
    return [i for i in operator.inputs[index : index + 1] if i >= 0]


def _name(model: schema.ModelT, index: int) -> str:
    """Return the library's name of an operator, which is the name of its output."""
    graph = model.subgraphs[0]
    name: str = graph.tensors[graph.operators[index].outputs[0]].name.decode()
    return name


def _elements(model: schema.ModelT, operators: list[int]) -> int:
    """Return the number of weight elements of some operators; shared weights count once."""
    graph = model.subgraphs[0]
    weights = [graph.tensors[graph.operators[i].inputs[1]] for i in operators]
    return sum({w.buffer: int(np.prod(tflite_file.shape_of(w))) for w in weights}.values())


def _kind(model: schema.ModelT, index: int) -> str:
    """Return the library's name of an operator's kind."""
    kind = tflite_file.operator_name(model, model.subgraphs[0].operators[index])
    return "CONV_2D_TRANSPOSE" if kind == "TRANSPOSE_CONV" else kind


def _quantized(
    model: schema.ModelT,
    entries: Sequence[tuple[str, str, Treatment]],
    quantization: Quantization,
    component: ComponentSpec,
) -> schema.ModelT:
    """Quantize a file with the library.

    Args:
        model: The FP32 file; changed, must not be used afterwards.
        entries: Name, kind and treatment of each operator with the weights of a layer.
        quantization: Recipe, and samples for static INT8.
        component: Contract of the signature that the samples are for.
    """
    from ai_edge_quantizer import quantizer

    with_products = quantization.recipe.quantize_activation_products
    content = tflite_file.serialise(model)
    with quiet_runtime(), warnings.catch_warnings():
        # The library warns about its calibration.
        warnings.simplefilter("ignore")
        rules = _library_recipe(entries, with_products=with_products)
        ranges = _ranges(content, rules, quantization, component) if with_products else None
        if shapes := quantize_large.flatten(model):
            content = tflite_file.serialise(model)
        tool = quantizer.Quantizer(content, rules.get_quantization_recipe())
        result = tool.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    assert result.quantized_model is not None
    records = tflite_file.parse(bytes(result.quantized_model))
    quantize_large.restore(records, shapes)
    for buffer in records.buffers:
        # The library stores constants outside the records; they are read back as `bytes`.
        if buffer.data is not None:
            buffer.data = np.frombuffer(buffer.data, np.uint8)
    return records


def _library_recipe(
    entries: Sequence[tuple[str, str, Treatment]], *, with_products: bool
) -> RecipeManager:
    """Return the library's recipe for the treatments; a later rule overrides an earlier one."""
    from ai_edge_quantizer.qtyping import TFLOperationName as Kind
    from ai_edge_quantizer.recipe_manager import AlgorithmName, RecipeManager

    rules = RecipeManager()
    if with_products:
        rules.add_static_config(".*", Kind.ALL_SUPPORTED, BITS, BITS)
        for ends in (Kind.INPUT, Kind.OUTPUT):
            rules.add_quantization_config(".*", ends, None, AlgorithmName.NO_QUANTIZE)
    for name, kind, treatment in entries:
        # The library may add a semicolon to a name.
        one = f"^{re.escape(name)};?$"
        if treatment == "weight_only":
            rules.add_weight_only_config(one, Kind(kind), BITS)
        elif treatment == "keep_float":
            rules.add_quantization_config(one, Kind(kind), None, AlgorithmName.NO_QUANTIZE)
        elif not with_products:
            rules.add_dynamic_config(one, Kind(kind), BITS)
    return rules


def _ranges(
    content: bytes, rules: RecipeManager, quantization: Quantization, component: ComponentSpec
) -> dict[str, Any]:
    """Measure the minimum and maximum of each tensor over all samples.

    Raises:
        UsageError: The recipe has another method than `minmax`, or there are no samples.
    """
    from ai_edge_quantizer import calibrator
    from ai_edge_quantizer.utils import qsv_utils

    if quantization.recipe.method != "minmax":
        raise UsageError(
            f"{component.name}: TFLite supports the method `minmax` only, not "
            f"`{quantization.recipe.method}`"
        )
    samples = list(quantization.feeds())
    if not samples:
        raise UsageError(
            f"{component.name}: static INT8 needs calibration samples, and there are none"
        )
    # The library's default is a moving average, which depends mostly on the first sample.
    tool = calibrator.Calibrator(content, 1, qsv_update_func=qsv_utils.min_max_update)
    tool.calibrate({component.name: samples}, rules)
    ranges: dict[str, Any] = tool.get_model_qsvs()
    return ranges
