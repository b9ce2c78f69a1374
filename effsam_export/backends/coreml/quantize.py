"""INT8 of a saved ML program: weights by coremltools, activations by its own pass and our ranges.

Weights are linear, symmetric, a scale for each output channel; tables of attention biases, a scale
for each head. In a package for iOS 17 and older they are unpacked by `constexpr_affine_dequantize`,
from iOS 18 on by `constexpr_blockwise_shift_scale`. An input that is INT8 too goes through a pair
of `quantize` and `dequantize`, which need iOS 17.

`coremltools.optimize.coreml.linear_quantize_activations` would insert the pairs, but begins with
predictions of Core ML and so needs macOS (and keeps of each tensor the range of the last sample
only, as of coremltools 9). Of the passes it runs, the one that puts a pair before a layer is run
here. The one that puts another behind each layer is not: it rounds what goes to the softmax or the
residual sum, which no recipe asks for. Unverified: whether Core ML computes in INT8 without it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from effsam_export.backends.coreml import activation_ranges
from effsam_export.backends.coreml.mil import read
from effsam_export.backends.coreml.mil.program import Constant
from effsam_export.backends.coreml.quantize_layers import KINDS, Layer, layers
from effsam_export.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from effsam_export.backends.coreml.activation_ranges import Ranges
    from effsam_export.backends.coreml.mil.program import Operation, Program
    from effsam_export.precision.select import ModuleScope
    from effsam_export.spec.int8 import Quantization

OPSETS_BEFORE_PAIRS = ("CoreML5", "CoreML6")
"""Of iOS 15 and 16."""
UNPACKING = {
    # Operation -> its parameter that holds the integers
    "constexpr_affine_dequantize": "quantized_data",
    "constexpr_blockwise_shift_scale": "data",
}
WEIGHTS_PASS = "compression::linear_quantize_weights"
PAIRS_PASS = "compression::insert_prefix_quantize_dequantize_pair"


@dataclass(frozen=True, kw_only=True)
class Quantizer:
    """Quantizes the functions of one package; the ranges of the first serve all.

    Attributes:
        quantization: Recipe and samples; the samples fit the first function.
        ranges: Measured so far.
    """

    quantization: Quantization
    ranges: Ranges = field(default_factory=dict)

    def quantize(self, package: Path, places: Mapping[str, Sequence[ModuleScope]]) -> None:
        """Replace a saved package of one function, in FP16, by the same in INT8.

        coremltools has been imported, and the caller keeps it from writing to the terminal.

        Args:
            package: The `.mlpackage` directory.
            places: Operation by its first output -> the FX nodes it came of.

        Raises:
            UsageError: The recipe asks what coremltools cannot do.
            CheckFailed: The weights found in the new package are not those of the recipe.
        """
        recipe = self.quantization.recipe
        if recipe.quantize_activation_products:
            raise UsageError(
                "products of two activations cannot be INT8 in Core ML: coremltools quantizes the "
                "inputs of layers with weights only"
            )
        program = read.load(package)
        found = layers(program, places, recipe)
        self._calibrate(program, found)
        _rewrite(package, found, self.ranges)
        check(read.load(package), found)

    def _calibrate(self, program: Program, found: Sequence[Layer]) -> None:
        """Measure what is not known yet of the inputs of INT8 products."""
        wanted = {layer.fed for layer in found if layer.in_int8}
        if not wanted:
            return
        if program.opset in OPSETS_BEFORE_PAIRS:
            raise UsageError(
                "INT8 activations need iOS 17, and the target profile is for an older system",
                hint='set the option `deployment_target = "iOS17"`, or the scheme "weight_only"',
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
                f"a further function has INT8 inputs of its own, such as `{lost[0]}`, and the "
                "samples fit the first function only",
                hint='set the scheme "weight_only", or leave out the option `functions`',
            )


def _rewrite(package: Path, found: Sequence[Layer], ranges: Ranges) -> None:
    """Run coremltools' passes on a package, and save what comes out in its place."""
    import coremltools as ct

    # Private, but all of the public functions are these calls with other passes.
    from coremltools.converters.mil.converter import mil_convert
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
    from coremltools.models.utils import _apply_graph_pass

    passes = []
    products = [layer.operation for layer in found if layer.in_int8]
    if products:
        pairs = PASS_REGISTRY[PAIRS_PASS]
        pairs.config = _config(products, mode="linear")
        pairs.activation_stats = {
            name: {"rmin": low, "rmax": high} for name, (low, high) in ranges.items()
        }
        passes.append(pairs)
    weights = PASS_REGISTRY[WEIGHTS_PASS]
    weights.config = _config(
        (layer.weight for layer in found if layer.treatment != "keep_float"),
        mode="linear_symmetric",
    )
    passes.append(weights)
    model = ct.models.MLModel(str(package), skip_model_load=True)
    # No newer version than the package has: the weights pass writes the operations of that one.
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
    # Their temporary folders go with them, and say so.
    del model, smaller
    shutil.rmtree(package)
    fresh.rename(package)


def _pipeline() -> Any:  # noqa: ANN401 - coremltools has no types
    """coremltools' passes without those that read the values of a weight, which is packed by now.

    They ran on the floating package. On a transpose and a sum behind a convolution (a ViT's patch
    embedding) `fuse_conv_bias` of coremltools 9.0 crashes where there are none.
    """
    import coremltools as ct

    pipeline = ct.PassPipeline()
    # The casts: where coremltools makes the pipeline itself, it leaves them out here too.
    pipeline.remove_passes(
        {"common::fuse_conv_bias", "common::add_fp16_cast", "common::add_int16_cast"}
    )
    return pipeline


def _config(names: Iterable[str], *, mode: str) -> Any:  # noqa: ANN401 - coremltools has no types
    """A configuration of what bears these names, and of nothing else."""
    from coremltools.optimize.coreml import OpLinearQuantizerConfig, OptimizationConfig

    # Not by size: small weights are the recipe's business.
    each = OpLinearQuantizerConfig(
        mode=mode, dtype="int8", granularity="per_channel", weight_threshold=0
    )
    return OptimizationConfig(global_config=None, op_name_configs=dict.fromkeys(names, each))


# ------------------------------------------------------------------ what came out


def check(program: Program, found: Sequence[Layer]) -> None:
    """Compare the INT8 weights and pairs of a saved program with those that were asked for.

    Raises:
        CheckFailed: They differ.
    """
    wanted = sum({y.weight: y.elements for y in found if y.treatment != "keep_float"}.values())
    stored = weights_in_int8(program)
    if not wanted:
        raise CheckFailed("the INT8 recipe leaves every layer floating")
    if stored != wanted:
        raise CheckFailed(
            f"{stored} elements of weights are INT8 in the saved package, and the recipe asks for "
            f"{wanted}"
        )
    given = {o.name for op in program.operations if op.kind == "dequantize" for o in op.outputs}
    pairs = {
        op.name for op in program.operations if op.kind in KINDS and op.inputs["x"][0] in given
    }
    products = {layer.operation for layer in found if layer.in_int8}
    if pairs != products:
        some = sorted(pairs ^ products)[0]
        raise CheckFailed(
            f"the input of `{some}` is {'floating' if some in products else 'INT8'} in the saved "
            "package, and the recipe asks for the other"
        )


def weights_in_int8(program: Program) -> int:
    """Elements of the weights that a program stores in INT8, without scales and zero points."""
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
