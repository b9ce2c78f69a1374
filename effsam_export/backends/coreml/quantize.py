"""Quantize a saved ML program to INT8 with the passes of coremltools.

Weights are quantized linearly and symmetrically, with a scale for each output channel. A table of
attention biases has a scale for each head. In a package for iOS 17 and older, weights are unpacked
by `constexpr_affine_dequantize`; from iOS 18 on, by `constexpr_blockwise_shift_scale`. An INT8
input of a layer goes through a pair of `quantize` and `dequantize`, which need iOS 17.

`coremltools.optimize.coreml.linear_quantize_activations` is not used: it needs macOS, and
coremltools 9 keeps only the range of the last sample. Its pass that inserts a pair before a layer
is run here. Its pass that inserts a pair after a layer is not, because it would also round the
inputs of softmax and residual sums. Unverified: whether Core ML computes in INT8 without it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from effsam_export.backends.coreml import activation_ranges
from effsam_export.backends.coreml.mil import read
from effsam_export.backends.coreml.mil.program import Constant
from effsam_export.backends.coreml.quantize_layers import KINDS, Layer, find_layers
from effsam_export.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from effsam_export.backends.coreml.activation_ranges import Ranges
    from effsam_export.backends.coreml.mil.program import Operation, Program
    from effsam_export.precision.select import ModuleScope
    from effsam_export.spec.int8 import Quantization

OPSETS_BEFORE_PAIRS = ("CoreML5", "CoreML6")
"""Opsets of iOS 15 and 16, without `quantize` and `dequantize`."""
UNPACKING = {
    # Operation -> parameter with the integers
    "constexpr_affine_dequantize": "quantized_data",
    "constexpr_blockwise_shift_scale": "data",
}
WEIGHTS_PASS = "compression::linear_quantize_weights"
PAIRS_PASS = "compression::insert_prefix_quantize_dequantize_pair"


@dataclass(frozen=True, kw_only=True)
class Quantizer:
    """Quantize the functions of one package, all with the ranges of the first.

    Attributes:
        quantization: Recipe and samples; the samples have the input shapes of the first function.
        ranges: Ranges of the activations, empty until the first function is quantized.
    """

    quantization: Quantization
    ranges: Ranges = field(default_factory=dict)

    def quantize(self, package: Path, nodes_by_output: Mapping[str, Sequence[ModuleScope]]) -> None:
        """Quantize a saved package of one function in place.

        coremltools must be imported already. The caller suppresses its output.

        Args:
            package: The `.mlpackage` directory.
            nodes_by_output: First output of an operation -> the FX nodes that it was made from.

        Raises:
            UsageError: coremltools does not support the recipe.
            CheckFailed: The INT8 weights of the new package are not those of the recipe.
        """
        recipe = self.quantization.recipe
        if recipe.quantize_activation_products:
            raise UsageError(
                "Core ML has no INT8 products of two activations: coremltools quantizes only the "
                "inputs of layers with weights"
            )
        program = read.load(package)
        layers = find_layers(program, nodes_by_output, recipe)
        self._calibrate(program, layers)
        _rewrite(package, layers, self.ranges)
        check(read.load(package), layers)

    def _calibrate(self, program: Program, layers: Sequence[Layer]) -> None:
        """Measure the input ranges of INT8 products, unless an earlier function has them."""
        wanted = {layer.input_name for layer in layers if layer.in_int8}
        if not wanted:
            return
        if program.opset in OPSETS_BEFORE_PAIRS:
            raise UsageError(
                "INT8 activations need iOS 17, and the target's `deployment_target` is older",
                hint='set the target option `deployment_target = "iOS17"`, or choose the recipe '
                'scheme "weight_only"',
            )
        if not self.ranges:
            self.ranges.update(
                activation_ranges.measure(
                    program, wanted, self.quantization.feeds, self.quantization.recipe.method
                )
            )
        lost = sorted(wanted - set(self.ranges))
        if lost:
            raise UsageError(
                f"the input `{lost[0]}` of an INT8 layer exists only in a further function, and "
                "ranges are measured in the first function",
                hint='choose the recipe scheme "weight_only" for the component, or '
                "remove `functions` from the target's options",
            )


def _rewrite(package: Path, layers: Sequence[Layer], ranges: Ranges) -> None:
    """Run coremltools' passes on a package and replace it by the result."""
    import coremltools as ct

    # Private, but the public functions make the same calls with other passes.
    from coremltools.converters.mil.converter import mil_convert
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
    from coremltools.models.utils import _apply_graph_pass

    passes = []
    products = [layer.operation for layer in layers if layer.in_int8]
    if products:
        pairs = PASS_REGISTRY[PAIRS_PASS]
        pairs.config = _config(products, mode="linear")
        pairs.activation_stats = {
            name: {"rmin": low, "rmax": high} for name, (low, high) in ranges.items()
        }
        passes.append(pairs)
    weights = PASS_REGISTRY[WEIGHTS_PASS]
    weights.config = _config(
        (layer.weight for layer in layers if layer.treatment != "keep_float"),
        mode="linear_symmetric",
    )
    passes.append(weights)
    model = ct.models.MLModel(str(package), skip_model_load=True)
    # The weights pass writes operations of this version, so it must not be newer than the package.
    program = _apply_graph_pass(
        model, passes, spec_version=0, skip_model_load=True, return_pymil_prog=True
    )
    smaller = mil_convert(
        program,
        convert_to="mlprogram",
        convert_from="milinternal",
        specification_version=model.get_spec().specificationVersion,
        compute_units=model.compute_unit,
        model_description=model.get_spec().description,
        skip_model_load=True,
        main_pipeline=_pipeline(),
    )
    # The old package's weights are read until the new one is complete.
    fresh = package.with_name(f"int8.{package.name}")
    smaller.save(str(fresh))
    # Deleted here, because they log the removal of their temporary folders.
    del model, smaller
    shutil.rmtree(package)
    fresh.rename(package)


def _pipeline() -> Any:  # noqa: ANN401 - coremltools has no types
    """Return coremltools' passes without those that fail on quantized weights.

    They have already run on the floating-point package. `fuse_conv_bias` of coremltools 9.0 crashes
    on a convolution with quantized weights that a transpose and a sum follow (a patch embedding).
    """
    import coremltools as ct

    pipeline = ct.PassPipeline()
    # coremltools leaves the two casts out as well when it converts `milinternal` itself.
    pipeline.remove_passes(
        {"common::fuse_conv_bias", "common::add_fp16_cast", "common::add_int16_cast"}
    )
    return pipeline


def _config(names: Iterable[str], *, mode: str) -> Any:  # noqa: ANN401 - coremltools has no types
    """Return a configuration that quantizes only the operations with these names."""
    from coremltools.optimize.coreml import OpLinearQuantizerConfig, OptimizationConfig

    # No size limit: the recipe decides about small weights.
    each = OpLinearQuantizerConfig(
        mode=mode, dtype="int8", granularity="per_channel", weight_threshold=0
    )
    return OptimizationConfig(global_config=None, op_name_configs=dict.fromkeys(names, each))


def check(program: Program, layers: Sequence[Layer]) -> None:
    """Compare the INT8 weights and `quantize` pairs of a saved program with its layers' treatments.

    Raises:
        CheckFailed: They differ, or no layer is quantized.
    """
    wanted = sum({y.weight: y.elements for y in layers if y.treatment != "keep_float"}.values())
    stored = weights_in_int8(program)
    if not wanted:
        raise CheckFailed("the INT8 recipe keeps every layer in floating point")
    if stored != wanted:
        raise CheckFailed(
            f"{stored} weight elements are INT8 in the saved package, and {wanted} in the recipe"
        )
    given = {o.name for op in program.operations if op.kind == "dequantize" for o in op.outputs}
    pairs = {
        op.name for op in program.operations if op.kind in KINDS and op.inputs["x"][0] in given
    }
    products = {layer.operation for layer in layers if layer.in_int8}
    if pairs != products:
        some = sorted(pairs ^ products)[0]
        raise CheckFailed(
            f"the input of `{some}` is {'not INT8' if some in products else 'INT8'} in the saved "
            f"package, and {'INT8' if some in products else 'not INT8'} in the recipe"
        )


def weights_in_int8(program: Program) -> int:
    """Return the number of weight elements that a program stores in INT8."""
    stored = {op.outputs[0].name: op.inputs["val"][0] for op in program.operations if _const(op)}
    total = 0
    for op in program.operations:
        if op.kind not in UNPACKING:
            continue
        bound = op.inputs[UNPACKING[op.kind]][0]
        value = stored.get(bound) if isinstance(bound, str) else bound
        assert isinstance(value, Constant)
        if value.type.dtype == "int8" and not isinstance(value.data, str):
            total += value.data.size
    return total


def _const(op: Operation) -> bool:
    return op.kind == "const"
