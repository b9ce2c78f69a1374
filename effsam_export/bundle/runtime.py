"""The runtime of a bundle and its allowed versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.spec.targets import TargetProfile

RANGES = {
    "onnx": ("onnxruntime", ">=1.22"),
    "openvino": ("openvino", ">=2025.2"),
    "tflite": ("ai-edge-litert", ">=2.1"),
}
"""Backend -> package of the runtime, and the versions that this project's extras allow."""


def document(target: TargetProfile, versions: Mapping[str, str]) -> dict[str, str]:
    """Return the manifest's `runtime`: name and allowed versions.

    Versions are a PEP 440 range; for Core ML the oldest operating system.

    Args:
        target: The target of the export.
        versions: Package -> version of the tools of the export.
    """
    options = target.options
    match target.backend:
        case "coreml":
            from effsam_export.backends.coreml.backend import parse_options

            return {"name": "Core ML", "versions": f">={parse_options(options).deployment_target}"}
        case "tensorrt":
            return {"name": "tensorrt", "versions": f">={options['tensorrt']}"}
        case "tensorrt-rtx":
            # An engine opens only in the version that compiled it.
            return {"name": "tensorrt-rtx", "versions": f"=={versions['tensorrt_rtx_bindings']}"}
        case backend:
            name, allowed = RANGES[backend]
            return {"name": name, "versions": allowed}
