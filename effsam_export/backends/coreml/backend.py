"""Core ML: convert a traced program to an ML program package (`.mlpackage`).

Inputs and outputs are float32 arrays with the names of the contract; an FP16 program casts them.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effsam_export._version import __version__
from effsam_export.backends.coreml import convert as coreml_convert
from effsam_export.backends.coreml import package as coreml_package
from effsam_export.backends.coreml import receipt as coreml_receipt
from effsam_export.backends.coreml import sdk as coreml_sdk
from effsam_export.backends.coreml import session as coreml_session
from effsam_export.backends.coreml.convert import MAIN, Conversion
from effsam_export.errors import UnknownNameError, UsageError
from effsam_export.precision.select import describe
from effsam_export.spec.stages import Artifact

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.backends import Options
    from effsam_export.backends.coreml.session import CoremlSession
    from effsam_export.spec.stages import Graph
    from effsam_export.spec.targets import Precision, TargetProfile

DEPLOYMENT_TARGETS = ("iOS16", "iOS17", "iOS18", "iOS26")
"""Oldest systems that a package can be made for. iOS 15 is missing: it lacks FP16 inputs and
outputs."""
FUNCTIONS_SINCE = "iOS18"
"""First system with packages of several functions. Source: coremltools, `save_multifunction`."""
COMPUTE_UNITS = ("ALL", "CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY")


@dataclass(frozen=True, kw_only=True)
class CoremlOptions:
    """The checked options of a Core ML target."""

    deployment_target: str
    compute_units: str
    image_input: bool


def parse_options(options: Options) -> CoremlOptions:
    """Parse the options of a target; the defaults are iOS 16, all compute units, float arrays.

    Raises:
        UnknownNameError: The deployment target or the compute units do not exist.
    """
    found = CoremlOptions(
        deployment_target=str(options.get("deployment_target", DEPLOYMENT_TARGETS[0])),
        compute_units=str(options.get("compute_units", COMPUTE_UNITS[0])),
        image_input=bool(options.get("image_input", False)),
    )
    if found.deployment_target not in DEPLOYMENT_TARGETS:
        raise UnknownNameError("deployment target", found.deployment_target, DEPLOYMENT_TARGETS)
    if found.compute_units not in COMPUTE_UNITS:
        raise UnknownNameError("compute units", found.compute_units, COMPUTE_UNITS)
    return found


def lower(graph: Graph, target: TargetProfile, out_dir: Path) -> Artifact:
    """Convert the traced program, save the package, re-open it and check its precision.

    Raises:
        UsageError: The program has dynamic shapes, the deployment target does not support several
            functions, or Core ML does not support the INT8 recipe.
        CheckFailed: The precision of the saved package is not the target's.
    """
    assert graph.program is not None, 'the entry of this backend has `reads="program"`'
    chosen, component = parse_options(target.options), graph.component
    quantization = graph.quantization if target.precision == "int8" else None
    conversion = Conversion(
        component=component,
        precision=float_precision(graph, target),
        deployment_target=chosen.deployment_target,
        image_input=chosen.image_input,
        recipe=graph.recipe,
        quantization=quantization if quantization and quantization.recipe.quantizes else None,
    )
    package = out_dir / f"{component.name}.mlpackage"
    if graph.variants:
        _check_functions(chosen.deployment_target)
        origins = coreml_convert.save_functions(_functions(graph), conversion, package)
    else:
        origins = {MAIN: coreml_convert.save(graph.program, conversion, package)}
    coreml_package.normalise(
        package,
        tensors=(*component.inputs, *component.outputs),
        description=f"{graph.about.get('title', 'Segment Anything')}: {component.name}, "
        f"{target.precision}",
        about=package_metadata(graph, target),
    )
    constants, ops = coreml_receipt.receipt(package, conversion, origins)
    return Artifact(
        component=component.name,
        backend="coreml",
        precision=target.precision,
        files=coreml_package.files_of(package),
        tensors_by_dtype=constants,
        ops=ops,
        versions={"coremltools": str(coreml_sdk.load().__version__)},
        options=target.options,
    )


def float_precision(graph: Graph, target: TargetProfile) -> Precision:
    """Return the precision of all that a recipe does not quantize: FP32 or FP16."""
    if target.precision != "int8":
        return target.precision
    if graph.quantization is None:
        raise UsageError(f"the {graph.component.name} has no INT8 recipe for Core ML")
    return "fp32" if graph.quantization.recipe.scheme == "fp32" else "fp16"


def package_metadata(graph: Graph, target: TargetProfile) -> dict[str, str]:
    """Return the user-defined metadata that is stored inside the package."""
    rules = graph.recipe if float_precision(graph, target) == "fp16" else ()
    return {
        **graph.about,
        "version": __version__,
        "component": graph.component.name,
        "precision": target.precision,
        "kept_fp32": "; ".join(describe(rule) for rule in rules),
        "target": target.name,
    }


def _check_functions(deployment_target: str) -> None:
    newest = DEPLOYMENT_TARGETS.index(deployment_target)
    if newest < DEPLOYMENT_TARGETS.index(FUNCTIONS_SINCE):
        raise UsageError(
            f"a package of several functions needs {FUNCTIONS_SINCE}, and the target's "
            f"`deployment_target` is {deployment_target}",
            hint=f'set the target option `deployment_target = "{FUNCTIONS_SINCE}"`, or remove '
            "`functions`",
        )


def _functions(graph: Graph) -> dict[str, Path]:
    """Return the program file of each function by name; the component's own comes first."""
    assert graph.program is not None
    slots = next(t.shape[1] for t in graph.component.inputs if t.name == "point_labels")
    programs = {f"slots_{slots}": graph.program}
    programs.update((f"slots_{n}", path) for n, path in graph.variants)
    return programs


def open_session(artifact: Artifact, threads: int | None = None) -> CoremlSession:
    """Open a package: in Core ML on macOS, in the evaluator of ML programs elsewhere."""
    del threads
    chosen = parse_options(artifact.options)
    return coreml_session.open_package(
        coreml_package.package_of(artifact.files),
        units=chosen.compute_units,
        native=platform.system() == "Darwin",
    )


def simulator(options: Options) -> str:
    """Return "" on macOS, elsewhere the name of the evaluator that replaces Core ML."""
    del options
    return "" if platform.system() == "Darwin" else "an evaluator of the saved ML program"
