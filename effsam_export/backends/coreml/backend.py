"""Core ML: an ML program package of the traced program, FP16 by default.

Inputs and outputs are float32 arrays under the names of the contract; the casts are in the program.
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
"""The oldest system that can open a package. iOS 15 has no FP16 arithmetic in ML programs' inputs
and outputs, and is left out."""
FUNCTIONS_SINCE = "iOS18"
"""A package of several functions needs this system. Source: coremltools, `save_multifunction`."""
COMPUTE_UNITS = ("ALL", "CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of a target profile, checked."""

    deployment_target: str
    compute_units: str
    image_input: bool


def settings(options: Options) -> Settings:
    """Read the options of a profile; what it leaves out is iOS 16, all units, float arrays.

    Raises:
        UnknownNameError: A deployment target or compute units that do not exist.
    """
    found = Settings(
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
    """Convert the traced program, save the package, re-open it and count what it holds.

    Raises:
        UsageError: The program has shapes that change, several functions are asked of a system that
            has no such packages, or the INT8 recipe asks what Core ML does not have.
        CheckFailed: The precisions found in the file are not those asked for.
    """
    assert graph.program is not None, "the backend table says that this one reads programs"
    chosen, component = settings(target.options), graph.component
    quantization = graph.quantization if target.precision == "int8" else None
    conversion = Conversion(
        component=component,
        precision=floating(graph, target),
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
        described=f"{graph.about.get('title', 'Segment Anything')}: {component.name}, "
        f"{target.precision}",
        about=about(graph, target),
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


def floating(graph: Graph, target: TargetProfile) -> Precision:
    """The precision of what is not INT8: of all, for a component its recipe does not quantize."""
    if target.precision != "int8":
        return target.precision
    if graph.quantization is None:
        raise UsageError(f"the {graph.component.name} has no INT8 recipe for Core ML")
    return "fp32" if graph.quantization.recipe.scheme == "fp32" else "fp16"


def about(graph: Graph, target: TargetProfile) -> dict[str, str]:
    """Facts that travel inside the package, for a person who has nothing but it."""
    kept = graph.recipe if floating(graph, target) == "fp16" else ()
    return {
        **graph.about,
        "version": __version__,
        "component": graph.component.name,
        "precision": target.precision,
        "kept_fp32": "; ".join(describe(k) for k in kept),
        "target": target.name,
    }


def _check_functions(deployment_target: str) -> None:
    newest = DEPLOYMENT_TARGETS.index(deployment_target)
    if newest < DEPLOYMENT_TARGETS.index(FUNCTIONS_SINCE):
        raise UsageError(
            f"a package of several functions needs {FUNCTIONS_SINCE}, and the target profile is "
            f"for {deployment_target}",
            hint=f'give its options `deployment_target = "{FUNCTIONS_SINCE}"`, or no `functions`',
        )


def _functions(graph: Graph) -> dict[str, Path]:
    """Name of each function -> its program; the slots of the component itself come first."""
    assert graph.program is not None
    slots = next(t.shape[1] for t in graph.component.inputs if t.name == "point_labels")
    programs = {f"slots_{slots}": graph.program}
    programs.update((f"slots_{n}", path) for n, path in graph.variants)
    return programs


def open_session(artifact: Artifact) -> CoremlSession:
    """Open a package: in Core ML on macOS, in the evaluator of ML programs elsewhere."""
    chosen = settings(artifact.options)
    return coreml_session.open_package(
        coreml_package.package_of(artifact.files),
        units=chosen.compute_units,
        native=platform.system() == "Darwin",
    )


def simulator(options: Options) -> str:
    """Nothing on macOS; elsewhere the program of the saved file is run without Core ML."""
    del options
    return "" if platform.system() == "Darwin" else "an evaluator of the saved ML program"
