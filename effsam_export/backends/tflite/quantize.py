"""INT8 in a .tflite file, by Google's `ai-edge-quantizer`.

What a treatment means here:

* `w8a8`: INT8 weights with a scale for each output channel. The file's activations are FP32, and
  XNNPACK rounds each row of a layer's input (a pixel, a token) to INT8 with a range of its own
  while it computes. That is as fast as ranges fixed beforehand, much nearer to FP32, and needs no
  samples. XNNPACK has no such depthwise convolution: that one gets `weight_only`.
* `weight_only`: the same weights behind a DEQUANTIZE, which the runtime computes once, at load.
* `keep_float`: FP16 behind a DEQUANTIZE, as in an FP16 file; so are all other constants but biases.

`quantize_activation_products` is the library's static INT8 for all it can, with
ranges from the samples; the file's
inputs and outputs are FP32 all the same.
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
"""Which input of an operator is its bias."""


def quantize(
    model: bytes, program: Path, quantization: Quantization, component: ComponentSpec
) -> bytes:
    """Quantize a file by a recipe; equal arguments give equal bytes.

    Args:
        model: The file in FP32, one graph with one signature.
        program: The traced program it was made of.
        quantization: The recipe, and samples for `quantize_activation_products`.
        component: Its name is the signature's.

    Returns:
        The file with the same signature, its inputs and outputs FP32 as before.

    Raises:
        UsageError: `quantize_activation_products` with another method than `minmax`, or without
            samples.
        CheckFailed: A layer of the program is not in the file, or the library left one in FP32.
    """
    recipe = quantization.recipe
    records = tflite_file.parse(model)
    if recipe.quantizes:
        layers = quantize_layers.find(records, quantize_layers.of_program(program))
        plan = {i: treatment_of(records, i, recipe.treatment(x.modules)) for i, x in layers.items()}
        rounded = {i: x for i, x in layers.items() if plan[i] != "keep_float"}
        entries = [(_name(records, i), _kind(records, i), t) for i, t in plan.items()]
        wanted = _elements(records, list(rounded))
        quantize_layers.unfold(records, rounded)
        if rounded or recipe.quantize_activation_products:
            records = _quantized(records, entries, quantization, component)
        found = tflite_file.count_constants(records).get("int8", 0)
        if found < wanted:
            raise CheckFailed(
                f"{component.name}: the recipe asks for {wanted} weights in INT8, and the .tflite "
                f"file has {found}"
            )
        if rounded:
            quantize_bias.shrink(records)
    if recipe.scheme != "fp32":
        tflite_file.halve_constants(records, biases(records))
    return tflite_file.serialise(records)


def treatment_of(model: schema.ModelT, index: int, asked: Treatment) -> Treatment:
    """What an operator gets of what the recipe asks for its layer."""
    kind = tflite_file.operator_name(model, model.subgraphs[0].operators[index])
    return "weight_only" if asked == "w8a8" and kind == "DEPTHWISE_CONV_2D" else asked


def biases(model: schema.ModelT) -> frozenset[int]:
    """Buffers of the biases of layers.

    XNNPACK refuses an INT8 layer whose bias it has to unpack first.
    """
    return frozenset(
        graph.tensors[index].buffer
        for graph in model.subgraphs
        for operator in graph.operators
        for index in _bias(model, operator)
    )


def _bias(model: schema.ModelT, operator: schema.OperatorT) -> list[int]:
    place = BIAS.get(tflite_file.operator_name(model, operator), len(operator.inputs))
    return [i for i in operator.inputs[place : place + 1] if i >= 0]


def _name(model: schema.ModelT, index: int) -> str:
    """An operator as the library calls it: by its result."""
    graph = model.subgraphs[0]
    name: str = graph.tensors[graph.operators[index].outputs[0]].name.decode()
    return name


def _elements(model: schema.ModelT, operators: list[int]) -> int:
    """Elements of the weights of some operators; shared ones count once."""
    graph = model.subgraphs[0]
    weights = [graph.tensors[graph.operators[i].inputs[1]] for i in operators]
    return sum({w.buffer: int(np.prod(tflite_file.shape_of(w))) for w in weights}.values())


def _kind(model: schema.ModelT, index: int) -> str:
    """An operator's kind as the library spells it."""
    kind = tflite_file.operator_name(model, model.subgraphs[0].operators[index])
    return "CONV_2D_TRANSPOSE" if kind == "TRANSPOSE_CONV" else kind


def _quantized(
    model: schema.ModelT,
    entries: Sequence[tuple[str, str, Treatment]],
    quantization: Quantization,
    component: ComponentSpec,
) -> schema.ModelT:
    """The library's work on a file.

    Args:
        model: The file in FP32; left in another form.
        entries: Name, kind and treatment of each operator with a layer's weights.
        quantization: Whether products of activations are quantized too, and by which samples.
        component: Whose signature the samples are for.
    """
    from ai_edge_quantizer import quantizer

    with_products = quantization.recipe.quantize_activation_products
    content = tflite_file.serialise(model)
    with quiet_runtime(), warnings.catch_warnings():
        # The library's advice on its own calibration, and its bars.
        warnings.simplefilter("ignore")
        asked = _asked(entries, with_products=with_products)
        ranges = _ranges(content, asked, quantization, component) if with_products else None
        if shapes := quantize_large.flatten(model):
            content = tflite_file.serialise(model)
        tool = quantizer.Quantizer(content, asked.get_quantization_recipe())
        result = tool.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    assert result.quantized_model is not None
    records = tflite_file.parse(bytes(result.quantized_model))
    quantize_large.restore(records, shapes)
    for buffer in records.buffers:
        # The library puts constants behind the records, from where they are read as plain bytes.
        if buffer.data is not None:
            buffer.data = np.frombuffer(buffer.data, np.uint8)
    return records


def _asked(entries: Sequence[tuple[str, str, Treatment]], *, with_products: bool) -> RecipeManager:
    """A recipe in the library's own terms; a later entry overrules an earlier one."""
    from ai_edge_quantizer.qtyping import TFLOperationName as Kind
    from ai_edge_quantizer.recipe_manager import AlgorithmName, RecipeManager

    asked = RecipeManager()
    if with_products:
        asked.add_static_config(".*", Kind.ALL_SUPPORTED, BITS, BITS)
        for ends in (Kind.INPUT, Kind.OUTPUT):
            asked.add_quantization_config(".*", ends, None, AlgorithmName.NO_QUANTIZE)
    for name, kind, treatment in entries:
        # The library closes each name with a semicolon.
        one = f"^{re.escape(name)};?$"
        if treatment == "weight_only":
            asked.add_weight_only_config(one, Kind(kind), BITS)
        elif treatment == "keep_float":
            asked.add_quantization_config(one, Kind(kind), None, AlgorithmName.NO_QUANTIZE)
        elif not with_products:
            asked.add_dynamic_config(one, Kind(kind), BITS)
    return asked


def _ranges(
    content: bytes, asked: RecipeManager, quantization: Quantization, component: ComponentSpec
) -> dict[str, Any]:
    """Least and largest value of each tensor over all samples.

    Raises:
        UsageError: Another method is asked for, or there are no samples.
    """
    from ai_edge_quantizer import calibrator
    from ai_edge_quantizer.utils import qsv_utils

    if quantization.recipe.method != "minmax":
        raise UsageError(
            f"{component.name}: TFLite takes ranges by `minmax`, not `{quantization.recipe.method}`"
        )
    samples = list(quantization.feeds())
    if not samples:
        raise UsageError(f"{component.name}: static INT8 needs samples, and there are none")
    # The library's own rule is a moving average that the first sample dominates.
    tool = calibrator.Calibrator(content, 1, qsv_update_func=qsv_utils.min_max_update)
    tool.calibrate({component.name: samples}, asked)
    ranges: dict[str, Any] = tool.get_model_qsvs()
    return ranges
