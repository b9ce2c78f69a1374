"""Quantize an OpenVINO model to INT8: NNCF for activations, INT8 and FP16 constants.

OpenVINO keeps the node names of the ONNX graph, by which layers are found. A convolution with a
bias becomes two operations; the product is called `<name>/WithoutBiases`.
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
INT8_MAX = 127
MIN_STORED_ELEMENTS = 1024
"""Minimum elements of a constant to store in a smaller dtype."""


def apply(model: openvino.Model, quantization: Quantization) -> openvino.Model:
    """Return the quantized model.

    Args:
        model: Model converted from the FP32 ONNX graph; changed.
        quantization: Recipe, samples, and the treatment of each node of the ONNX graph.
    """
    layers = find_layers(model, quantization)
    if "w8a8" in layers.values() or quantization.recipe.quantize_activation_products:
        model = _with_activations(model, quantization, layers)
    store_in_int8(model, {n for n, treatment in layers.items() if treatment == "weight_only"})
    store_small(model)
    for key in ("nncf", "conversion_parameters"):
        # Paths and options, in an order that changes from run to run.
        if key in model.get_rt_info():
            del model.get_rt_info()[key]
    # By default the CPU plugin also quantizes the inputs of linear layers with weight-only INT8
    # (openvino#27778).
    model.set_rt_info(0, ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
    return model


def find_layers(model: openvino.Model, quantization: Quantization) -> dict[str, Treatment]:
    """Return the treatment of every convolution and matrix product of a model by its name.

    Products of two activations stay in floating point, unless the recipe quantizes them. Then the
    other operators with a treatment are included.
    """
    layers: dict[str, Treatment] = {}
    for op in model.get_ordered_ops():
        name = op.get_friendly_name()
        treatment = quantization.treatments.get(name.removesuffix(WITHOUT_BIASES))
        if op.get_type_name() in LAYERS:
            layers[name] = treatment or "keep_float"
        elif treatment is not None and quantization.recipe.quantize_activation_products:
            layers[name] = treatment
    return layers


def _with_activations(
    model: openvino.Model, quantization: Quantization, layers: dict[str, Treatment]
) -> openvino.Model:
    # Must be set before the import: it switches NNCF's telemetry off.
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
        # NNCF has no search by squared error, so `mse` uses quantiles like `percentile`.
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
            names=[n for n, treatment in layers.items() if treatment != "w8a8"],
            types=sorted(others - {"Result"}),
        )
    elif unquantized := [n for n, treatment in layers.items() if treatment != "w8a8"]:
        ignored = nncf.IgnoredScope(names=unquantized)
    return nncf.quantize(
        model,
        nncf.Dataset(feeds, dict),
        # Symmetric weights, asymmetric activations.
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(feeds),
        ignored_scope=ignored,
        advanced_parameters=AdvancedQuantizationParameters(
            activations_range_estimator_params=ranges,
            # It does not improve the masks: IoU 0.9908 with it, 0.9910 without (MobileSAM).
            disable_bias_correction=True,
        ),
    )


def store_in_int8(model: openvino.Model, names: Collection[str]) -> None:
    """Store the weights of the named layers in INT8, with a scale for each output channel.

    `nncf.compress_weights` is not used: it divides the largest weight of a channel by 128, not by
    127 like `nncf.quantize` and the other toolchains. Weights already rounded to multiples of their
    scale would be rounded a second time.
    """
    stored: dict[tuple[str, tuple[int, ...]], openvino.Output] = {}
    for op in model.get_ordered_ops():
        # Sums and norms may have a treatment too, but no weights.
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
            scale = np.abs(values).max(axis=axes, keepdims=True) / INT8_MAX
            scale = np.maximum(scale, np.finfo(np.float32).tiny).astype(np.float32)
            integers = np.clip(np.rint(values / scale), -INT8_MAX, INT8_MAX).astype(np.int8)
            constant = opset13.constant(integers, name=weight.get_friendly_name())
            back = opset13.multiply(opset13.convert(constant, "f32"), opset13.constant(scale))
            stored[key] = back.output(0)
        op.input(1).replace_source_output(stored[key])


def output_axes(op: openvino.Node, ndim: int) -> tuple[int, ...]:
    """Return the axes of a layer's weights that index its output channels."""
    kind = op.get_type_name()
    if kind == "MatMul":
        return (ndim - 2,) if op.get_attributes()["transpose_b"] else (ndim - 1,)
    return {"GroupConvolution": (0, 1), "ConvolutionBackpropData": (1,)}.get(kind, (0,))


def store_small(model: openvino.Model) -> None:
    """Store large FP32 constants in FP16 and large INT64 ones in UINT8 or INT32, before a Convert.

    `save_model(compress_to_fp16=True)` does not change models that NNCF has quantized.
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
        if kind not in smaller or size < MIN_STORED_ELEMENTS:
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
    # A value too large for FP16 becomes infinite.
    with np.errstate(over="ignore"):
        return bool(np.isfinite(values.astype(dtype)).all())
