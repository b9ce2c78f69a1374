"""Convert traced programs to a package with one function, or with several that share weights."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from effsam_export.backends.coreml import sdk as coreml_sdk
from effsam_export.backends.coreml import torch_ops
from effsam_export.backends.coreml.package import DEBUG_HANDLES
from effsam_export.backends.coreml.precision import HANDLE, Fp32Nodes, fp32_nodes, number_nodes
from effsam_export.backends.coreml.quantize import Quantizer
from effsam_export.errors import UsageError
from effsam_export.precision.select import fx_scope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.export import ExportedProgram

    from effsam_export.precision.select import ModuleScope
    from effsam_export.spec.int8 import Quantization
    from effsam_export.spec.model import ComponentSpec, KeepFp32
    from effsam_export.spec.targets import Precision

MAIN = "main"
"""Name that coremltools gives the only function of a package."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """How to convert a component to an ML program.

    Attributes:
        component: Contract of the component.
        precision: Precision of everything that is not quantized, `fp32` or `fp16`.
        deployment_target: Member of `coremltools.target`, such as `iOS17`.
        image_input: Declare the input `image` as an RGB image instead of a float32 array.
        recipe: What stays in FP32 if `precision` is `fp16`.
        quantization: INT8 recipe and samples; None to quantize nothing.
    """

    component: ComponentSpec
    precision: Precision
    deployment_target: str
    image_input: bool
    recipe: tuple[KeepFp32, ...]
    quantization: Quantization | None = None


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The FX nodes that a recipe keeps in FP32, and the operations they were converted to.

    Attributes:
        fp32: FX nodes that the recipe keeps in FP32; none for an FP32 program.
        operations: Name of the first output of each operation made from those nodes.
    """

    fp32: Fp32Nodes
    operations: frozenset[str]


def read_program(path: Path, component: ComponentSpec) -> ExportedProgram:
    """Load a traced program of fixed shapes and number its operations.

    Raises:
        UsageError: An input has a dynamic dimension.
    """
    with coreml_sdk.quiet():
        program: ExportedProgram = torch.export.load(path).run_decompositions({})
    changing = [
        name
        for name, shape in _shapes(program, component).items()
        if not all(isinstance(size, int) for size in shape)
    ]
    if changing:
        raise UsageError(
            f"Core ML takes fixed shapes only, and the {component.name} has inputs with dynamic "
            "shapes: " + ", ".join(f"`{n}`" for n in changing),
            hint="set the target option `slots = 8`, the number of points per prompt",
        )
    number_nodes(program)
    return program


def _shapes(program: ExportedProgram, component: ComponentSpec) -> dict[str, tuple[Any, ...]]:
    """Return the shapes of the inputs by contract name; a dynamic size is not an int."""
    by_name = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
    names = program.graph_signature.user_inputs
    return {
        spec.name: tuple(by_name[str(name)].meta["val"].shape)
        for spec, name in zip(component.inputs, names, strict=True)
    }


def save(
    program_path: Path,
    conversion: Conversion,
    package: Path,
    quantizer: Quantizer | None = None,
) -> Origin:
    """Convert one traced program and save it as a package of one function, `main`.

    Args:
        program_path: The `.pt2` file.
        conversion: Precision, deployment target and recipes.
        package: The `.mlpackage` directory to write.
        quantizer: Quantizer shared by the functions of one package; a new one by default.
    """
    ct = coreml_sdk.load()
    torch_ops.register()
    component = conversion.component
    program = read_program(program_path, component)
    fp32 = fp32_nodes(program, conversion.recipe if conversion.precision == "fp16" else ())
    with coreml_sdk.quiet():
        model = ct.convert(
            program,
            convert_to="mlprogram",
            inputs=_inputs(program, conversion),
            outputs=[ct.TensorType(name=t.name, dtype=np.float32) for t in component.outputs],
            minimum_deployment_target=getattr(ct.target, conversion.deployment_target),
            compute_precision=ct.transform.FP16ComputePrecision(op_selector=fp32.may_cast)
            if conversion.precision == "fp16"
            else ct.precision.FLOAT32,
            skip_model_load=True,
        )
        model.save(str(package))
    outputs = _outputs_by_handle(package)
    if conversion.quantization is not None:
        quantizer = quantizer or Quantizer(quantization=conversion.quantization)
        with coreml_sdk.quiet():
            quantizer.quantize(package, _nodes_by_operation(program, outputs))
    return Origin(
        fp32=fp32,
        operations=frozenset(name for handle in fp32.handles for name in outputs.get(handle, ())),
    )


def _inputs(program: ExportedProgram, conversion: Conversion) -> list[Any]:
    ct = coreml_sdk.load()
    return [
        ct.ImageType(name=name, shape=shape, color_layout=ct.colorlayout.RGB)
        if name == "image" and conversion.image_input
        else ct.TensorType(name=name, shape=shape, dtype=np.float32)
        for name, shape in _shapes(program, conversion.component).items()
    ]


def _outputs_by_handle(package: Path) -> dict[int, tuple[str, ...]]:
    """Return the first outputs of the operations made from each FX node, by its number.

    coremltools writes this mapping into the package.
    """
    mapping = json.loads((package / DEBUG_HANDLES).read_text("utf-8"))["mapping"]
    return {
        int(handle): tuple(entry[-1]["Output"] for entry in entries)
        for handle, entries in mapping.items()
        if handle.isdigit()
    }


def _nodes_by_operation(
    program: ExportedProgram, outputs: Mapping[int, tuple[str, ...]]
) -> dict[str, list[ModuleScope]]:
    """Return the FX nodes that each operation was made from, by its first output, in order."""
    nodes: dict[str, list[ModuleScope]] = {}
    for node in program.graph.nodes:
        for output in outputs.get(node.meta.get(HANDLE, -1), ()):
            nodes.setdefault(output, []).append(fx_scope(node))
    return nodes


def save_functions(
    programs: Mapping[str, Path], conversion: Conversion, package: Path
) -> dict[str, Origin]:
    """Convert several programs to one package with a function for each.

    Functions share equal weights. The first one is the default function.

    Raises:
        UsageError: Two programs have the same input shapes, by which a function is chosen.
    """
    ct = coreml_sdk.load()
    _check_distinct(programs, conversion.component)
    quantization = conversion.quantization
    quantizer = None if quantization is None else Quantizer(quantization=quantization)
    origins = {}
    with tempfile.TemporaryDirectory() as folder:
        functions = ct.utils.MultiFunctionDescriptor()
        for name, program in programs.items():
            single = Path(folder) / f"{name}.mlpackage"
            origins[name] = save(program, conversion, single, quantizer)
            functions.add_function(str(single), src_function_name=MAIN, target_function_name=name)
        functions.default_function_name = next(iter(programs))
        with coreml_sdk.quiet():
            ct.utils.save_multifunction(functions, str(package))
    return origins


def _check_distinct(programs: Mapping[str, Path], component: ComponentSpec) -> None:
    seen: dict[str, str] = {}
    for name, path in programs.items():
        shapes = str(_shapes(read_program(path, component), component))
        if shapes in seen:
            raise UsageError(
                f"`{seen[shapes]}` and `{name}` of the {component.name} have the same input "
                "shapes, and a function is chosen by its input shapes",
                hint="remove `functions` from the target's options",
            )
        seen[shapes] = name
