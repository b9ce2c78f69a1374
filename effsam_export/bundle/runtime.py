"""Which versions of a runtime a bundle is for."""

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
"""Backend -> package of the runtime, and its versions that this project's extras allow."""


def document(target: TargetProfile, versions: Mapping[str, str]) -> dict[str, str]:
    """The manifest's `runtime`: a name, and a range of versions (PEP 440; of Core ML a system).

    Args:
        target: What was exported for.
        versions: Package -> version of the tools that took part.
    """
    options = target.options
    match target.backend:
        case "coreml":
            from effsam_export.backends.coreml.backend import settings

            return {"name": "Core ML", "versions": f">={settings(options).deployment_target}"}
        case "tensorrt":
            return {"name": "tensorrt", "versions": f">={options['tensorrt']}"}
        case "tensorrt-rtx":
            # An engine is opened by the version that compiled it, and by no other.
            return {"name": "tensorrt-rtx", "versions": f"=={versions['tensorrt_rtx_bindings']}"}
        case backend:
            name, allowed = RANGES[backend]
            return {"name": name, "versions": allowed}
