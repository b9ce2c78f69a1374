"""INT8 in an OpenVINO model, by NNCF: FakeQuantize where arithmetic is INT8, small constants.

Layers are found by the names of the ONNX graph, which OpenVINO keeps; a convolution with a bias
becomes two operations, of which the product is called `<name>/WithoutBiases`.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import numpy as np
import openvino
from openvino import opset13

if TYPE_CHECKING:
    from collections.abc import Collection

    from effsam_export.spec.int8 import Quantization, Treatment
    from effsam_export.spec.tensors import Array

LAYERS = ("Convolution", "GroupConvolution", "MatMul", "ConvolutionBackpropData")
WITHOUT_BIASES = "/WithoutBiases"
LARGEST = 127
SMALLEST_STORED = 1024
"""Constants below so many elements stay as they are."""


def apply(model: openvino.Model, quantization: Quantization) -> openvino.Model:
    """The quantized model.

    Args:
        model: Converted from the FP32 ONNX graph; changed.
        quantization: Recipe, samples, and the treatment of each node of the ONNX graph.
    """
    found = layers(model, quantization)
    if "w8a8" in found.values() or quantization.recipe.quantize_activation_products:
        model = _with_activations(model, quantization, found)
    store_in_int8(model, {n for n, treatment in found.items() if treatment == "weight_only"})
    store_small(model)
    for key in ("nncf", "conversion_parameters"):
        # What the tool notes there are paths and options, in an order of its own.
        if key in model.get_rt_info():
            del model.get_rt_info()[key]
    # The CPU quantizes what weights-only linear layers read too unless the model says otherwise
    # (openvino#27778): on MobileSAM that left the embedding's error 1 dB higher.
    model.set_rt_info(0, ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
    return model


def layers(model: openvino.Model, quantization: Quantization) -> dict[str, Treatment]:
    """Treatment of every convolution and product of a model, by its own name.

    Products of two activations are `keep_float`, unless the recipe
    sets `quantize_activation_products`; then the other
    operators that have a treatment are here too.
    """
    found: dict[str, Treatment] = {}
    for op in model.get_ordered_ops():
        name = op.get_friendly_name()
        treatment = quantization.treatments.get(name.removesuffix(WITHOUT_BIASES))
        if op.get_type_name() in LAYERS:
            found[name] = treatment or "keep_float"
        elif treatment is not None and quantization.recipe.quantize_activation_products:
            found[name] = treatment
    return found


def _with_activations(
    model: openvino.Model, quantization: Quantization, found: dict[str, Treatment]
) -> openvino.Model:
    # Asked for before the package is imported: it reports its use to its makers otherwise.
    os.environ.setdefault("NNCF_CI", "1")
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import (
        AggregatorType,
        RangeEstimatorParameters,
        RangeEstimatorParametersSet,
        StatisticsCollectorParameters,
        StatisticsType,
    )

    nncf.set_log_level(logging.ERROR)
    ranges = RangeEstimatorParametersSet.MINMAX
    if quantization.recipe.method != "minmax":
        # NNCF has no search by squared error; its quantiles are the nearest it offers to both.
        ranges = RangeEstimatorParameters(
            min=StatisticsCollectorParameters(
                statistics_type=StatisticsType.QUANTILE,
                aggregator_type=AggregatorType.MIN,
                quantile_outlier_prob=1e-5,
            ),
            max=StatisticsCollectorParameters(
                statistics_type=StatisticsType.QUANTILE,
                aggregator_type=AggregatorType.MAX,
                quantile_outlier_prob=1e-5,
            ),
        )
    feeds = list(quantization.feeds())
    ignored = nncf.IgnoredScope()
    if not quantization.recipe.quantize_activation_products:
        others = {o.get_type_name() for o in model.get_ops()} - {*LAYERS, "Constant", "Parameter"}
        ignored = nncf.IgnoredScope(
            names=[n for n, treatment in found.items() if treatment != "w8a8"],
            types=sorted(others - {"Result"}),
        )
    elif kept := [n for n, treatment in found.items() if treatment != "w8a8"]:
        ignored = nncf.IgnoredScope(names=kept)
    return nncf.quantize(
        model,
        nncf.Dataset(feeds, dict),
        # Activations around zero or not, as their values are; weights always around zero.
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(feeds),
        ignored_scope=ignored,
        advanced_parameters=AdvancedQuantizationParameters(
            activations_range_estimator_params=ranges,
            # Measured on MobileSAM: it changes no mask (0.9908 with, 0.9910 without).
            disable_bias_correction=True,
        ),
    )


def store_in_int8(model: openvino.Model, names: Collection[str]) -> None:
    """Store the weights of some layers in INT8, a scale for each output channel.

    `nncf.compress_weights` would do it too, but divides a channel's largest weight by 128, and not
    by 127 as `nncf.quantize` and every other toolchain here: weights that are on the grid already
    would be rounded a second time.
    """
    stored: dict[tuple[str, tuple[int, ...]], openvino.Output] = {}
    for op in model.get_ordered_ops():
        # With `quantize_activation_products` sums and norms have a treatment too, and
        # no weights to store.
        if op.get_type_name() not in LAYERS or op.get_friendly_name() not in names:
            continue
        weight = op.input_value(1).get_node()
        if weight.get_type_name() != "Constant":
            continue
        ndim = len(weight.get_output_shape(0))
        axes = tuple(i for i in range(ndim) if i not in output_axes(op, ndim))
        key = (weight.get_friendly_name(), axes)
        if key not in stored:
            values = weight.get_data()
            scale = np.abs(values).max(axis=axes, keepdims=True) / LARGEST
            scale = np.maximum(scale, np.finfo(np.float32).tiny).astype(np.float32)
            integers = np.clip(np.rint(values / scale), -LARGEST, LARGEST).astype(np.int8)
            constant = opset13.constant(integers, name=weight.get_friendly_name())
            back = opset13.multiply(opset13.convert(constant, "f32"), opset13.constant(scale))
            stored[key] = back.output(0)
        op.input(1).replace_source_output(stored[key])


def output_axes(op: openvino.Node, ndim: int) -> tuple[int, ...]:
    """Which axes of a layer's weights number its output channels."""
    kind = op.get_type_name()
    if kind == "MatMul":
        return (ndim - 2,) if op.get_attributes()["transpose_b"] else (ndim - 1,)
    return {"GroupConvolution": (0, 1), "ConvolutionBackpropData": (1,)}.get(kind, (0,))


def store_small(model: openvino.Model) -> None:
    """Store large FP32 constants in FP16 and large INT64 ones in a byte or INT32, behind a Convert.

    `save_model(compress_to_fp16=True)` leaves models that NNCF has seen alone.
    """
    smaller: dict[str, tuple[type[np.generic], ...]] = {
        "f32": (np.float16,),
        "i64": (np.uint8, np.int32),
    }
    for op in model.get_ordered_ops():
        if op.get_type_name() != "Constant":
            continue
        kind = op.get_element_type().get_type_name()
        size = int(np.prod(op.get_output_shape(0), dtype=np.int64))
        if kind not in smaller or size < SMALLEST_STORED:
            continue
        values = op.get_data()
        fitting = [t for t in smaller[kind] if _fits(values, t)]
        if not fitting:
            continue
        constant = opset13.constant(values.astype(fitting[0]), name=op.get_friendly_name())
        back = opset13.convert(constant, kind)
        for target in list(op.output(0).get_target_inputs()):
            target.replace_source_output(back.output(0))


def _fits(values: Array, dtype: type[np.generic]) -> bool:
    if issubclass(dtype, np.integer):
        limits = np.iinfo(dtype)
        return bool(values.min() >= limits.min and values.max() <= limits.max)
    # Too large for FP16 is infinity there.
    with np.errstate(over="ignore"):
        return bool(np.isfinite(values.astype(dtype)).all())
