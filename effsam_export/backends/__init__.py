"""The table of backends: what each needs, what it can do, and the module that implements it.

A backend module has the functions of `Backend` and is imported when it is used. To add a backend:
add a folder here, an entry in `BACKENDS` and an extra in `pyproject.toml`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, Protocol, cast

from effsam_export.errors import ToolchainMissing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from effsam_export.spec.stages import Artifact, Graph
    from effsam_export.spec.targets import Precision, TargetProfile
    from effsam_export.spec.tensors import Feeds, Signature

    Options = Mapping[str, str | int | float | bool]


class Session(Protocol):
    """An artefact that is loaded in a runtime."""

    def run(self, feeds: Feeds) -> Feeds:
        """Run once; return the outputs by the names of the component's contract."""
        ...


class ArtifactSession(Session, Protocol):
    """A session that also reports the inputs and outputs of its graph."""

    def signature(self) -> Signature:
        """Return the graph's inputs and outputs as the runtime or the file reports them."""
        ...


class Backend(Protocol):
    """The functions of a backend module."""

    def lower(self, graph: Graph, target: TargetProfile, out_dir: Path) -> Artifact:
        """Write the artefact of one graph into `out_dir`, then re-open it and check it.

        Returns:
            The files, with their constants counted by dtype and their operators by kind.

        Raises:
            CheckFailed: The precision in the file is not the target's.
        """
        ...

    def open_session(self, artifact: Artifact, threads: int | None = None) -> ArtifactSession:
        """Load an artefact with the options of its target.

        Args:
            artifact: The artefact.
            threads: Threads of a CPU runtime, in place of those of the target or of the runtime's
                own choice. Core ML and GPUs ignore it.

        Raises:
            CheckFailed: The runtime cannot load it, or would run it on another device or execution
                provider than the target's.
        """
        ...

    def simulator(self, options: Options) -> str:
        """Name what `open_session` runs if the target's own runtime cannot run on this machine.

        Empty if the target's own runtime runs here. Otherwise a result is `simulated`.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class BackendEntry:
    """What a backend needs, what it can do, and the options that a target may set.

    Attributes:
        module: Name of the module to import.
        packages: Python packages that `lower` needs. The first one also runs the artefacts.
        extra: Extra of this package that installs them.
        precisions: Precisions it can export.
        options: Target options it knows, with their types.
        precision_options: Values of target options that a precision sets.
        reads: Input of `lower`: the ONNX file, or the program traced by `torch.export`.
        quantizer: Python package that INT8 needs as well; empty for none.
        fixed_shapes: Whether its graphs cannot have dynamic shapes.
    """

    module: str
    packages: tuple[str, ...]
    extra: str
    precisions: tuple[Precision, ...]
    options: Mapping[str, type]
    reads: Literal["onnx", "program"] = "onnx"
    quantizer: str = ""
    fixed_shapes: bool = False
    precision_options: Mapping[Precision, Options] = field(default_factory=dict)


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
        precisions=("fp32", "fp16", "bf16", "int8"),
        quantizer="nncf",
        options={"device": str, "inference_precision": str},
        precision_options={"bf16": {"inference_precision": "bf16"}},
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
        fixed_shapes=True,
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
        fixed_shapes=True,
    ),
    "tensorrt-rtx": BackendEntry(
        module="effsam_export.backends.tensorrt.rtx",
        packages=("onnxruntime", "tensorrt_rtx_bindings"),
        extra="tensorrt-rtx",
        precisions=("fp32", "fp16", "int8"),
        options={
            "compute_capabilities": str,
            "per_capability": bool,
            "max_images": int,
            "opt_images": int,
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
            "max_images": int,
            "opt_images": int,
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
    """Return whether the package that runs a backend's artefacts is installed; import nothing."""
    return find_spec(BACKENDS[name].packages[0]) is not None


def load(name: str) -> Backend:
    """Import the module of a backend.

    Raises:
        ToolchainMissing: The package that runs its artefacts is not installed.
    """
    entry = BACKENDS[name]
    if not available(name):
        raise ToolchainMissing(f"backend `{name}`", entry.packages[0], entry.extra)
    return cast("Backend", import_module(entry.module))


def require_lowering(name: str) -> None:
    """Raise `ToolchainMissing` unless all packages that `lower` needs are installed."""
    entry = BACKENDS[name]
    for package in entry.packages:
        if find_spec(package) is None:
            raise ToolchainMissing(f"backend `{name}`", package, entry.extra)


def require_quantizer(name: str) -> None:
    """Raise `ToolchainMissing` unless the package that a backend needs for INT8 is installed."""
    package = BACKENDS[name].quantizer
    if package and find_spec(package) is None:
        raise ToolchainMissing(f"INT8 for backend `{name}`", package, "int8")


def require_tracing() -> None:
    """Raise `ToolchainMissing` unless the packages that every export needs are installed."""
    for package in ("torch", "onnx", "onnxscript", "onnxruntime", "cyclonedx"):
        if find_spec(package) is None:
            raise ToolchainMissing("tracing a model", package, "torch")
