"""TensorRT (10.3 of JetPack 6 to 11): write a typed ONNX file and a kit that builds its engine.

A typed ONNX file contains the casts and FP16 constants of its precision. On a machine with
`tensorrt` and a GPU, the engine is also built and checked here. Elsewhere ONNX Runtime simulates it
with the same ONNX file.
"""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import onnx
import onnxruntime

from effsam_export.backends.tensorrt import reported as trt_reported
from effsam_export.backends.tensorrt import shape_ranges
from effsam_export.backends.tensorrt import typed as trt_typed
from effsam_export.backends.tensorrt import write_kit as trt_kit
from effsam_export.backends.tensorrt.kit import build_engine, trt_engine
from effsam_export.errors import CheckFailed
from effsam_export.spec.stages import Artifact

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from effsam_export.backends import ArtifactSession
    from effsam_export.spec.stages import Graph
    from effsam_export.spec.targets import Precision, TargetProfile
    from effsam_export.spec.tensors import Feeds, Signature

    Options = Mapping[str, str | int | float | bool]


def simulator(options: Options) -> str:
    """Return the name of the simulator, or "" if TensorRT runs on this machine."""
    del options
    return "" if usable() else trt_typed.SIMULATOR


def usable() -> bool:
    """Return whether `tensorrt` is installed and the machine has a GPU."""
    return find_spec("tensorrt") is not None and trt_engine.capability() is not None


def lower(graph: Graph, target: TargetProfile, out_dir: Path) -> Artifact:
    """Write the typed ONNX and its build kit, and the engine if TensorRT runs on this machine.

    Raises:
        UsageError: The shape ranges of the target are not valid.
        CheckFailed: The precision of a file is not the target's, or TensorRT refused the graph.
    """
    name = graph.component.name
    shapes = shape_ranges.ranges(graph.component, target.options)
    typed = trt_typed.write(graph, target.precision, out_dir)
    documents = trt_kit.write(graph, target, typed, shapes, out_dir)
    files, ops = [*typed.files, *documents], typed.ops
    versions = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    if usable():
        import tensorrt as trt

        path = out_dir / f"{name}.engine"
        path.write_bytes(_build(trt, out_dir, name))
        ops = inspect(trt, path, name, target.precision, int8=typed.int8)
        files.append(path)
        versions["tensorrt"] = str(trt.__version__)
    return Artifact(
        component=name,
        backend="tensorrt",
        precision=target.precision,
        files=tuple(files),
        tensors_by_dtype=typed.constants,
        ops=ops,
        versions=versions,
        options=target.options,
    )


def _build(trt: Any, bundle: Path, component: str) -> bytes:  # noqa: ANN401 - an SDK module
    """Build the engine with the script of the kit, so that the shipped script is tested."""
    try:
        return build_engine.build(trt, bundle, component)
    except RuntimeError as error:
        raise CheckFailed(f"{component}: TensorRT could not build the engine: {error}") from error


def inspect(
    trt: Any,  # noqa: ANN401 - an SDK module
    path: Path,
    component: str,
    precision: Precision,
    *,
    int8: bool = False,
) -> dict[str, int]:
    """Open an engine and compare the dtypes of its layers with the precision of its target.

    Returns:
        Number of layers by kind.

    Raises:
        CheckFailed: No layer has the precision, or an FP32 engine has layers in half precision.
    """
    layers = _open(trt, path.name, path.read_bytes()).layers()
    half = [n for n in layers if {"float16", "bfloat16"} & set(n["outputs"])]
    if precision == "fp32" and half:
        raise CheckFailed(
            f"{component}: the precision is fp32, but {len(half)} of {len(layers)} layers compute "
            f"in half precision, first `{half[0]['name']}`"
        )
    if precision == "fp16" and not half:
        raise CheckFailed(
            f"{component}: the precision is fp16, but none of {len(layers)} layers computes in fp16"
        )
    if int8 and not any("int8" in n["outputs"] for n in layers):
        raise CheckFailed(
            f"{component}: the precision is int8, but none of {len(layers)} layers has an INT8 "
            "output"
        )
    return dict(sorted(Counter(str(n["kind"]) for n in layers).items()))


def _open(trt: Any, name: str, plan: bytes) -> trt_engine.Engine:  # noqa: ANN401 - an SDK module
    try:
        return trt_engine.Engine(trt, plan)
    except trt_engine.GpuError as error:
        raise CheckFailed(f"`{name}`: {error}") from error


class EngineSession:
    """An engine loaded on the GPU of this machine."""

    def __init__(self, engine: trt_engine.Engine) -> None:
        self._engine = engine

    def run(self, feeds: Feeds) -> Feeds:
        try:
            return self._engine.run(feeds)
        except trt_engine.GpuError as error:
            raise CheckFailed(str(error)) from error

    def signature(self) -> Signature:
        return trt_reported.signature(self._engine)


def open_session(artifact: Artifact, threads: int | None = None) -> ArtifactSession:
    """Open the artefact's engine, or its simulator without TensorRT.

    Without an engine one is built, and not written: a bundle has no files but the listed ones.
    """
    del threads
    typed = artifact.files[0]
    if not usable():
        return trt_typed.open_simulator(typed)
    import tensorrt as trt

    engine = next((f for f in artifact.files if f.suffix == ".engine"), None)
    name = typed.with_suffix(".engine").name
    plan = engine.read_bytes() if engine else _build(trt, typed.parent, artifact.component)
    return EngineSession(_open(trt, name, plan))
