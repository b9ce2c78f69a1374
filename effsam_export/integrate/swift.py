"""Generate Swift 5.9 for Core ML: a package for iOS and macOS.

The tests check it with a parser; it was never compiled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.errors import UsageError
from effsam_export.integrate import contract as names
from effsam_export.integrate import render
from effsam_export.integrate.render import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.integrate.contract import Component, Contract

BACKENDS = {"coreml": "Core ML"}
RUN = "swift run -c release selftest BUNDLE"
NAMES = (
    "Package.swift",
    "Segmenter.swift",
    "Resizing.swift",
    "Images.swift",
    "CoreMLGraph.swift",
    "SelfTest.swift",
    "SelfTestFiles.swift",
    "main.swift",
)
STATE = "Never compiled, never run: a parser checked the grammar. Run the self-test on the device."
"""First line of each file."""
PACKAGE = "/Manifest.json"
"""First file of a package in a manifest; Core ML opens the folder around it."""
SYSTEMS = {
    # deployment_target -> versions of iOS and macOS
    "iOS16": ("16.0", "13.0"),
    "iOS17": ("17.0", "14.0"),
    "iOS18": ("18.0", "15.0"),
    "iOS26": ("26.0", "26.0"),
}
UNITS = {
    # Name in coremltools -> name in Core ML
    "ALL": ".all",
    "CPU_AND_NE": ".cpuAndNeuralEngine",
    "CPU_AND_GPU": ".cpuAndGPU",
    "CPU_ONLY": ".cpuOnly",
}


def files(contract: Contract) -> dict[str, str]:
    """Return a `Package.swift`, the library, its self-test, and a `main.swift` that calls it.

    Raises:
        UsageError: A graph is not a package or has dynamic shapes, or a target option has an
            unsupported value.
    """
    system = _known(contract, "deployment_target", "iOS16", SYSTEMS)
    units = _known(contract, "compute_units", "ALL", UNITS)
    ios, macos = SYSTEMS[system]
    changing = [n for n, s in contract.decoder.inputs.items() if any(isinstance(d, str) for d in s)]
    if changing:
        raise UsageError(
            f"Core ML needs fixed shapes, but inputs of the decoder are dynamic: "
            f"`{'`, `'.join(changing)}`",
            hint="the bundle was not made by this effsam-export",
        )
    tags = render.tags_of(contract)
    values = {
        **render.common(contract),
        "STATE": render.commented(STATE, "//"),
        "NOTICE": render.commented(render.notice(contract), "//"),
        "ENCODER_PACKAGE": quoted(_package(contract.encoder)),
        "DECODER_PACKAGE": quoted(_package(contract.decoder)),
        "COMPUTE_UNITS": UNITS[units],
        "COMPUTE_UNITS_NAME": quoted(units),
        "IOS": quoted(ios),
        "MACOS": quoted(macos),
        "EMBEDDINGS_SHAPE": _list(contract.decoder.inputs[names.EMBEDDINGS]),
        "PAD_VALUE": _list(contract.pad_value or ()),
        "PADDING_POINT": repr(contract.padding_point),
        "BACKGROUND": _optional(contract.background),
        "EMPTY_LABEL": _optional(contract.empty),
        "MAX_POINTS": _optional(contract.max_points),
        "TAKES_BOX": _truth(contract.takes_box),
        "TAKES_POINTS_WITH_BOX": _truth(contract.takes_points_with_box),
        "TAKES_MASK": _truth(contract.takes_mask),
        "SINGLE": _list(contract.single),
        "MULTIMASK": _list(contract.multimask),
    }
    return {name: render.fill(name, tags, values) for name in NAMES}


def _known(contract: Contract, option: str, default: str, known: Mapping[str, object]) -> str:
    value = contract.options.get(option, default)
    if value not in known:
        raise UsageError(
            f"target.options.{option} is `{value}`",
            hint=f"code in Swift supports {', '.join(known)}",
        )
    return str(value)


def _package(component: Component) -> str:
    """Return the folder of a component's package.

    Raises:
        UsageError: The component is not one package.
    """
    folder = component.file.removesuffix(PACKAGE)
    outside = [f for f in component.beside if not f.startswith(f"{folder}/")]
    if not component.file.endswith(f".mlpackage{PACKAGE}") or outside:
        listed = "`, `".join([component.file, *component.beside])
        raise UsageError(f"a component is not a Core ML package: `{listed}`")
    return folder


def _list(values: tuple[object, ...]) -> str:
    return f"[{', '.join(repr(v) for v in values)}]"


def _optional(value: int | None) -> str:
    return "nil" if value is None else repr(value)


def _truth(value: bool) -> str:
    return "true" if value else "false"
