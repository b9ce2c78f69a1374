"""From a traced program to a saved ML program, in one function or in several that share weights."""

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
from effsam_export.backends.coreml.precision import HANDLE, Kept, kept, number_nodes
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
"""Name coremltools gives the function of a package that has one."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """How a component becomes an ML program.

    Attributes:
        deployment_target: Member of `coremltools.target`, as `iOS17`.
        image_input: Take the input `image` as a picture instead of as a float32 array.
        precision: What is not quantized computes in it; `fp32` or `fp16`.
        recipe: What stays in FP32 when `precision` is `fp16`.
        quantization: What is INT8 besides; None for nothing.
    """

    component: ComponentSpec
    precision: Precision
    deployment_target: str
    image_input: bool
    recipe: tuple[KeepFp32, ...]
    quantization: Quantization | None = None


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the operations of a saved function come from.

    Attributes:
        kept: What its recipe keeps in FP32; empty for an FP32 program.
        operations: Names of the first outputs of what came of the kept nodes.
    """

    kept: Kept
    operations: frozenset[str]


def read_program(path: Path, component: ComponentSpec) -> ExportedProgram:
    """Load a traced program of fixed shapes, with its operations numbered.

    Raises:
        UsageError: Some of its shapes change from call to call.
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
            f"Core ML takes fixed shapes only, and the {component.name} has inputs that change: "
            + ", ".join(f"`{n}`" for n in changing),
            hint="give the options of the target profile `slots = 8`: that many points per prompt",
        )
    number_nodes(program)
    return program


def _shapes(program: ExportedProgram, component: ComponentSpec) -> dict[str, tuple[Any, ...]]:
    """Shapes of the inputs by their contract names; a size that changes is not an int."""
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
        conversion: How.
        package: The `.mlpackage` directory to be written.
        quantizer: Of the package this function is for; a new one if it is left out and needed.
    """
    ct = coreml_sdk.load()
    torch_ops.register()
    component = conversion.component
    program = read_program(program_path, component)
    keep = kept(program, conversion.recipe if conversion.precision == "fp16" else ())
    with coreml_sdk.quiet():
        model = ct.convert(
            program,
            convert_to="mlprogram",
            inputs=_inputs(program, conversion),
            outputs=[ct.TensorType(name=t.name, dtype=np.float32) for t in component.outputs],
            minimum_deployment_target=getattr(ct.target, conversion.deployment_target),
            compute_precision=ct.transform.FP16ComputePrecision(op_selector=keep.casts)
            if conversion.precision == "fp16"
            else ct.precision.FLOAT32,
            skip_model_load=True,
        )
        model.save(str(package))
    noted = _noted(package)
    if conversion.quantization is not None:
        quantizer = quantizer or Quantizer(quantization=conversion.quantization)
        with coreml_sdk.quiet():
            quantizer.quantize(package, _places(program, noted))
    return Origin(
        kept=keep,
        operations=frozenset(name for handle in keep.handles for name in noted.get(handle, ())),
    )


def _inputs(program: ExportedProgram, conversion: Conversion) -> list[Any]:
    ct = coreml_sdk.load()
    return [
        ct.ImageType(name=name, shape=shape, color_layout=ct.colorlayout.RGB)
        if name == "image" and conversion.image_input
        else ct.TensorType(name=name, shape=shape, dtype=np.float32)
        for name, shape in _shapes(program, conversion.component).items()
    ]


def _noted(package: Path) -> dict[int, tuple[str, ...]]:
    """Number of an FX node -> first outputs of what came of it, as coremltools noted it."""
    mapping = json.loads((package / DEBUG_HANDLES).read_text("utf-8"))["mapping"]
    return {
        int(handle): tuple(place[-1]["Output"] for place in places)
        for handle, places in mapping.items()
        if handle.isdigit()
    }


def _places(
    program: ExportedProgram, noted: Mapping[int, tuple[str, ...]]
) -> dict[str, list[ModuleScope]]:
    """Operation by its first output -> where the FX nodes it came of are, in their order."""
    places: dict[str, list[ModuleScope]] = {}
    for node in program.graph.nodes:
        for output in noted.get(node.meta.get(HANDLE, -1), ()):
            places.setdefault(output, []).append(fx_scope(node))
    return places


def save_functions(
    programs: Mapping[str, Path], conversion: Conversion, package: Path
) -> dict[str, Origin]:
    """Convert several programs into one package, a function each; equal weights are stored once.

    The first is the default function.

    Raises:
        UsageError: Two of them take inputs of the same shapes, so that no caller could choose.
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
                f"the {component.name} takes the same number of points in `{seen[shapes]}` and "
                f"`{name}`: it has no further functions",
                hint="leave `functions` out of the options of the target profile",
            )
        seen[shapes] = name
