"""Every backend, by name: a module with three functions, imported when it is used.

A new one is a file beside this one, a line in the table, and an extra in `pyproject.toml`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, Protocol, cast

from effsam_export.errors import ToolchainMissing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from effsam_export.spec.stages import Artifact, Graph
    from effsam_export.spec.targets import Precision, TargetProfile
    from effsam_export.spec.tensors import Feeds

    Options = Mapping[str, str | int | float | bool]


class Session(Protocol):
    """An opened artefact."""

    def run(self, feeds: Feeds) -> Feeds:
        """Run once: tensors in and out by their contract names."""
        ...


class Backend(Protocol):
    """What a backend module offers."""

    def lower(self, graph: Graph, target: TargetProfile, out_dir: Path) -> Artifact:
        """Write the artefact of one graph into `out_dir`, re-open it and count what it holds.

        Raises:
            CheckFailed: The precision found in the file is not the one asked for.
        """
        ...

    def open_session(self, artifact: Artifact) -> Session:
        """Load an artefact with the options it was made for."""
        ...

    def simulator(self, options: Options) -> str:
        """What `open_session` runs in the place of the real runtime on this machine.

        Empty where the real one runs; anything else makes a result `simulated`.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class BackendEntry:
    """Where a backend is, what it needs and can do, and the options a target may give it.

    Attributes:
        reads: What it lowers from: the ONNX file, or the traced program.
        packages: What `lower` needs; the first is what runs an artefact.
        quantizer: What it needs besides for INT8.
    """

    module: str
    packages: tuple[str, ...]
    extra: str
    precisions: tuple[Precision, ...]
    options: Mapping[str, type]
    reads: Literal["onnx", "program"] = "onnx"
    quantizer: str = ""


BACKENDS: dict[str, BackendEntry] = {
    "onnx": BackendEntry(
        module="effsam_export.backends.onnx.backend",
        packages=("onnxruntime",),
        extra="onnx",
        precisions=("fp32", "fp16", "int8"),
        options={"provider": str},
    ),
    "openvino": BackendEntry(
        module="effsam_export.backends.openvino.backend",
        packages=("openvino",),
        extra="openvino",
        precisions=("fp32", "fp16", "int8"),
        quantizer="nncf",
        options={"device": str, "inference_precision": str},
    ),
    "coreml": BackendEntry(
        module="effsam_export.backends.coreml.backend",
        packages=("coremltools", "torch"),
        extra="coreml",
        precisions=("fp32", "fp16", "int8"),
        options={
            "slots": int,
            "functions": str,
            "deployment_target": str,
            "compute_units": str,
            "image_input": bool,
        },
        reads="program",
    ),
    "tflite": BackendEntry(
        module="effsam_export.backends.tflite.backend",
        packages=("ai_edge_litert", "litert_torch"),
        extra="tflite",
        precisions=("fp32", "fp16", "int8"),
        quantizer="ai_edge_quantizer",
        options={
            "slots": int,
            "num_threads": int,
            "delegate": str,
            "max_rank": int,
            "forbidden_ops": str,
            "single_file": bool,
        },
        reads="program",
    ),
    "tensorrt-rtx": BackendEntry(
        module="effsam_export.backends.tensorrt.rtx",
        packages=("onnxruntime", "tensorrt_rtx_bindings"),
        extra="tensorrt-rtx",
        precisions=("fp32", "fp16", "int8"),
        options={
            "compute_capabilities": str,
            "per_capability": bool,
            "max_prompts": int,
            "opt_prompts": int,
            "max_points": int,
            "opt_points": int,
            "tf32": bool,
        },
    ),
    "tensorrt": BackendEntry(
        module="effsam_export.backends.tensorrt.backend",
        packages=("onnxruntime",),
        extra="tensorrt",
        precisions=("fp32", "fp16", "int8"),
        options={
            "max_prompts": int,
            "opt_prompts": int,
            "max_points": int,
            "opt_points": int,
            "workspace_mib": int,
            "tf32": bool,
            "tensorrt": str,
        },
    ),
}


def available(name: str) -> bool:
    """Whether the package that runs a backend's artefacts is installed, without importing it."""
    return find_spec(BACKENDS[name].packages[0]) is not None


def load(name: str) -> Backend:
    """Import a backend of the table.

    Raises:
        ToolchainMissing: The package that runs its artefacts is not installed.
    """
    entry = BACKENDS[name]
    if not available(name):
        raise ToolchainMissing(f"backend `{name}`", entry.packages[0], entry.extra)
    return cast("Backend", import_module(entry.module))


def require_lowering(name: str) -> None:
    """Raise `ToolchainMissing` unless everything that a backend lowers with is installed."""
    entry = BACKENDS[name]
    for package in entry.packages:
        if find_spec(package) is None:
            raise ToolchainMissing(f"backend `{name}`", package, entry.extra)


def require_quantizer(name: str) -> None:
    """Raise `ToolchainMissing` unless what a backend quantizes with is installed."""
    package = BACKENDS[name].quantizer
    if package and find_spec(package) is None:
        raise ToolchainMissing(f"INT8 for backend `{name}`", package, "int8")


def require_tracing() -> None:
    """Raise `ToolchainMissing` unless everything that every export needs is installed."""
    for package in ("torch", "onnx", "onnxscript", "onnxruntime", "cyclonedx"):
        if find_spec(package) is None:
            raise ToolchainMissing("tracing a model", package, "torch")
